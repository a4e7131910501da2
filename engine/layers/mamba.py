"""Mixers with selective state spaces in the place of attention. Know numbers and batches; know no configuration."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from engine.attention.batch import Batch
from engine.device import Device
from engine.layers.activations import activate
from engine.layers.convolution import CausalConvolution
from engine.layers.linear import Linear
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.state_space import HeadSpaceSizes, scan_channels, scan_heads
from engine.native.kernels import Kernels


@dataclass(frozen=True, slots=True)
class Mamba2Spec:
    """One layer of Mamba-2.

    kernel: width of the convolution
    channels_last: the convolution's weights lie as MLX stores them
    eps: of the gated norm; None leaves the norm out
    norm_groups: parts of the inner size that the gated norm treats alone
    norm_first: the gate follows the norm instead of preceding it
    """

    hidden_size: int
    space: HeadSpaceSizes
    kernel: int
    conv_bias: bool
    input_bias: bool
    output_bias: bool
    channels_last: bool
    eps: float | None
    norm_groups: int = 1
    norm_first: bool = False


class GroupedGatedNorm(Module):
    """RMSNorm of each of several groups, and SiLU of a gate before it, or after it where the norm is first."""

    def __init__(self, size: int, eps: float, num_groups: int, *, norm_first: bool) -> None:
        self.weight = mx.ones((size,))
        self._ones = mx.ones((size // num_groups,))
        self._eps = eps
        self._num_groups = num_groups
        self._norm_first = norm_first

    def __call__(self, x: mx.array, gate: mx.array) -> mx.array:
        """x, gate: (..., size); returns the same shape."""
        if self._norm_first:
            return gated(self._native, self._normed(x), gate)
        return self._normed(gated(self._native, x, gate))

    def _normed(self, x: mx.array) -> mx.array:
        groups = x.reshape(*x.shape[:-1], self._num_groups, -1)
        if self._native is None or x.dtype != mx.float32:
            return mx.fast.rms_norm(groups, None, self._eps).reshape(x.shape) * self.weight
        return self._native.rms_norm(groups, self._ones, self._eps).reshape(x.shape) * self.weight


class Mamba2(Module):
    """A mixer whose heads keep a matrix each, which decays as a whole.

    layer: its number among the layers that keep a state
    A_log, dt_bias, D: (num_heads,); see engine.layers.state_space
    """

    def __init__(self, layer: int, spec: Mamba2Spec) -> None:
        space = spec.space
        projected = space.inner_size + space.mixed_size + space.num_heads
        self.in_proj = Linear(spec.hidden_size, projected, bias=spec.input_bias)
        self.conv1d = CausalConvolution(
            space.mixed_size, spec.kernel, bias=spec.conv_bias, channels_last=spec.channels_last, activation="silu"
        )
        self.A_log, self.dt_bias, self.D = (mx.zeros((space.num_heads,)) for _ in range(3))
        if spec.eps is not None:
            self.norm = GroupedGatedNorm(space.inner_size, spec.eps, spec.norm_groups, norm_first=spec.norm_first)
        self.out_proj = Linear(space.inner_size, spec.hidden_size, bias=spec.output_bias)
        self._normed = spec.eps is not None
        self._space = space
        self._layer = layer

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        """x: (rows, length, hidden_size); returns the same shape."""
        space = self._space
        gate, mixed, steps = mx.split(
            self.projected(x), [space.inner_size, space.inner_size + space.mixed_size], axis=-1
        )
        tail, state = batch.state(self._layer) or (None, None)
        mixed, tail = self.conv1d(mixed, tail)
        found, state = self._scan(mixed, steps, state)
        batch.keep_state(self._layer, [tail, state])
        found = found.reshape(gate.shape).astype(x.dtype)
        return self.out_proj(self.norm(found, gate) if self._normed else gated(self._native, found, gate))

    def projected(self, x: mx.array) -> mx.array:
        """Gate, heads, input and output vectors and steps of each token, side by side."""
        return self.in_proj(x)

    def _scan(self, mixed: mx.array, steps: mx.array, state: mx.array | None) -> tuple[mx.array, mx.array]:
        space, constants = self._space, (self.A_log, self.dt_bias, self.D)
        if self._native is None or mixed.dtype != mx.float32:
            return scan_heads(mixed, steps, *constants, state, space)
        sizes = space.head_dim, space.num_groups, space.state_size
        limits = space.shortest, space.longest
        found, state = self._native.state_space(mixed, steps, *constants, state, *sizes, *limits)
        return found, state


class MixerBlock(Module):
    """x + mixer(norm(x)).

    pointwise: the mixer looks at every token by itself, and takes no batch
    """

    def __init__(self, mixer: Callable[..., mx.array], norm: RMSNorm, *, pointwise: bool = False) -> None:
        self.mixer = mixer
        self.norm = norm
        self._pointwise = pointwise

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        normed = self.norm(x)
        return x + (self.mixer(normed) if self._pointwise else self.mixer(normed, batch))


def rename_backbone(name: str) -> str:
    """Our name for a part of the frame that Mamba's checkpoints call `backbone`."""
    if name.startswith("backbone."):
        name = f"model.{name.removeprefix('backbone.')}"
    return name.replace("model.embeddings.", "model.embed_tokens.").replace("model.norm_f.", "model.norm.")


@dataclass(frozen=True, slots=True)
class MambaSpec:
    """One layer of Mamba, with norms of steps, input and output vectors as in Jamba.

    step_rank: numbers that the steps of all channels are computed from
    """

    hidden_size: int
    num_channels: int
    state_size: int
    step_rank: int
    kernel: int
    conv_bias: bool
    bias: bool
    channels_last: bool
    eps: float


class Mamba(Module):
    """A mixer whose channels keep a few numbers each, which decay one by one.

    layer: its number among the layers that keep a state
    A_log: (num_channels, state_size); D: (num_channels,)
    """

    def __init__(self, layer: int, spec: MambaSpec) -> None:
        channels, size = spec.num_channels, spec.state_size
        self.in_proj = Linear(spec.hidden_size, 2 * channels, bias=spec.bias)
        self.conv1d = CausalConvolution(
            channels, spec.kernel, bias=spec.conv_bias, channels_last=spec.channels_last, activation="silu"
        )
        self.x_proj = Linear(channels, spec.step_rank + 2 * size)
        self.dt_proj = Linear(spec.step_rank, channels, bias=True)
        self.dt_layernorm = RMSNorm(spec.step_rank, spec.eps)
        self.b_layernorm, self.c_layernorm = RMSNorm(size, spec.eps), RMSNorm(size, spec.eps)
        self.A_log = mx.zeros((channels, size))
        self.D = mx.zeros((channels,))
        self.out_proj = Linear(channels, spec.hidden_size, bias=spec.bias)
        self._step_parts = [spec.step_rank, spec.step_rank + size]
        self._layer = layer

    def prepare(self, device: Device) -> None:
        """Bring loaded arrays into the form this device computes with."""
        super().prepare(device)
        self._speeds = mx.exp(self.A_log.astype(mx.float32))

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        """x: (rows, length, hidden_size); returns the same shape."""
        tail, state = batch.state(self._layer) or (None, None)
        channels, gate = mx.split(self.in_proj(x), 2, axis=-1)
        channels, tail = self.conv1d(channels, tail)
        steps, inputs, outputs = mx.split(self.x_proj(channels), self._step_parts, axis=-1)
        steps = self.dt_proj(self.dt_layernorm(steps))
        vectors = self.b_layernorm(inputs), self.c_layernorm(outputs)
        found, state = self._scan(channels, steps, vectors, state)
        batch.keep_state(self._layer, [tail, state])
        return self.out_proj(gated(self._native, found.astype(x.dtype), gate))

    def _scan(
        self, channels: mx.array, steps: mx.array, vectors: tuple[mx.array, mx.array], state: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        constants = self._speeds, self.D
        if self._native is None or channels.dtype != mx.float32:
            return scan_channels(channels, steps, *vectors, *constants, state)
        found, state = self._native.channel_space(channels, steps, *vectors, *constants, state)
        return found, state


def gated(kernels: Kernels | None, x: mx.array, gate: mx.array) -> mx.array:
    """x * SiLU(gate), computed in float32. kernels: the device's, or None."""
    return activate(kernels, "silu", gate.astype(mx.float32), x.astype(mx.float32)).astype(x.dtype)
