"""Selective state spaces in MLX's operations: Mamba (arXiv:2312.00752) and Mamba-2 (arXiv:2405.21060)."""

from dataclasses import dataclass

import mlx.core as mx

_TOKENS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class HeadSpaceSizes:
    """Sizes of one layer of Mamba-2.

    num_groups: each serves num_heads // num_groups heads with its input and output vectors
    state_size: numbers that a head keeps per dimension
    shortest, longest: limits of the steps
    """

    num_heads: int
    head_dim: int
    num_groups: int
    state_size: int
    shortest: float = 0.0
    longest: float = float("inf")

    @property
    def inner_size(self) -> int:
        """The heads side by side."""
        return self.num_heads * self.head_dim

    @property
    def mixed_size(self) -> int:
        """A token's heads, input vectors and output vectors, side by side."""
        return self.inner_size + 2 * self.num_groups * self.state_size


def scan_heads(
    mixed: mx.array,
    steps: mx.array,
    log_speeds: mx.array,
    biases: mx.array,
    passes: mx.array,
    state: mx.array | None,
    sizes: HeadSpaceSizes,
) -> tuple[mx.array, mx.array]:
    """Go on with Mamba-2: each head's state decays, takes a token in, and is read.

    mixed: heads, input vectors and output vectors side by side, (rows, length, mixed_size)
    steps: (rows, length, num_heads), before their bias and softplus
    log_speeds, biases, passes: A_log, dt_bias and D, (num_heads,); D is the share of the input that passes by the state
    state: (rows, num_heads, head_dim, state_size) float32, or None before the first token
    Returns (rows, length, num_heads, head_dim) float32, and the new state.
    """
    mixed, steps = mixed.astype(mx.float32), steps.astype(mx.float32) + biases
    steps = mx.clip(mx.logaddexp(steps, mx.zeros_like(steps)), sizes.shortest, sizes.longest)
    logs = -mx.exp(log_speeds.astype(mx.float32)) * steps
    if state is None:
        state = mx.zeros((mixed.shape[0], sizes.num_heads, sizes.head_dim, sizes.state_size))
    found = []
    for start in range(0, mixed.shape[1], _TOKENS_AT_ONCE):
        part = slice(start, start + _TOKENS_AT_ONCE)
        heads, inputs, outputs = _parts(mixed[:, part], sizes)
        y, state = _chunk(heads * steps[:, part, :, None], inputs, outputs, logs[:, part], state)
        found.append(y + heads * passes[:, None])
    return (found[0] if len(found) == 1 else mx.concatenate(found, axis=1)), state


def _parts(mixed: mx.array, sizes: HeadSpaceSizes) -> tuple[mx.array, mx.array, mx.array]:
    """Heads (rows, length, num_heads, head_dim), and each head's input and output vectors (..., state_size)."""
    shape, width = mixed.shape[:2], sizes.num_groups * sizes.state_size
    heads, inputs, outputs = mx.split(mixed, [sizes.inner_size, sizes.inner_size + width], axis=-1)
    inputs, outputs = (
        mx.repeat(each.reshape(*shape, sizes.num_groups, -1), sizes.num_heads // sizes.num_groups, axis=2)
        for each in (inputs, outputs)
    )
    return heads.reshape(*shape, sizes.num_heads, sizes.head_dim), inputs, outputs


def _chunk(
    heads: mx.array, inputs: mx.array, outputs: mx.array, logs: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """A few tokens at once: what each reads of the tokens up to itself, and of the state before them.

    logs: of each token's decay, (rows, length, num_heads)
    """
    heads, inputs, outputs = (each.swapaxes(1, 2) for each in (heads, inputs, outputs))
    sums = mx.cumsum(logs.swapaxes(1, 2), axis=-1)[..., None]
    length = sums.shape[-2]
    # Later tokens are masked before the exponential, which could overflow for them.
    decays = mx.exp(mx.where(mx.tri(length, dtype=mx.bool_), sums - sums.swapaxes(-1, -2), -mx.inf))
    found = (outputs @ inputs.swapaxes(-1, -2) * decays) @ heads
    found = found + mx.exp(sums) * (outputs @ state.swapaxes(-1, -2))
    last = sums[..., -1:, :]
    state = mx.exp(last) * state + (heads * mx.exp(last - sums)).swapaxes(-1, -2) @ inputs
    return found.swapaxes(1, 2), state


def scan_channels(
    x: mx.array,
    steps: mx.array,
    inputs: mx.array,
    outputs: mx.array,
    speeds: mx.array,
    passes: mx.array,
    state: mx.array | None,
) -> tuple[mx.array, mx.array]:
    """Go on with Mamba: each number of a channel's state has a decay of its own, so that tokens take turns.

    x, steps: (rows, length, channels), steps before their softplus
    inputs, outputs: a token's input and output vector, (rows, length, state_size)
    speeds: of the decay, (channels, state_size), above 0; passes: D, (channels,)
    state: (rows, channels, state_size) float32, or None before the first token
    Returns the shape of x in float32, and the new state.
    """
    x, steps = x.astype(mx.float32), steps.astype(mx.float32)
    steps = mx.logaddexp(steps, mx.zeros_like(steps))[..., None]
    decays = mx.exp(-steps * speeds)
    taken = steps * x[..., None] * inputs.astype(mx.float32)[:, :, None]
    state = mx.zeros(taken[:, 0].shape) if state is None else state
    states = []
    for token in range(x.shape[1]):
        state = decays[:, token] * state + taken[:, token]
        states.append(state)
    found = (mx.stack(states, axis=1) @ outputs.astype(mx.float32)[..., None])[..., 0]
    return found + passes * x, state
