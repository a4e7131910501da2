"""Gated DeltaNet: linear attention whose memory is a matrix per head (Yang et al. 2024, arXiv:2412.06464)."""

from dataclasses import dataclass

import mlx.core as mx

from engine.attention.batch import Batch
from engine.layers.activations import ACTIVATIONS, activate
from engine.layers.convolution import CausalConvolution
from engine.layers.linear import FusedProjections, Linear, Norm, ResidualBranch
from engine.layers.norm import RMSNorm


@dataclass(frozen=True, slots=True)
class DeltaSizes:
    """Sizes of one layer. Each key head serves num_value_heads // num_key_heads value heads.

    kernel: width of the convolution over queries, keys and values
    tiled: value heads take turns among the key heads, as llama.cpp orders them, instead of following their key head
    """

    hidden_size: int
    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    tiled: bool = False

    @property
    def mixed_size(self) -> int:
        """Queries, keys and values of a token, side by side."""
        return 2 * self.num_key_heads * self.key_dim + self.num_value_heads * self.value_dim


class GatedRMSNorm(RMSNorm):
    """RMSNorm times an activated gate."""

    def gated(self, x: mx.array, gate: mx.array, activation: str) -> mx.array:
        """norm(x) * activation(gate); both (..., size)."""
        if self._native is not None and x.dtype == mx.float32:
            return activate(self._native, activation, gate, self(x))
        return self(x) * ACTIVATIONS[activation](gate.astype(mx.float32)).astype(x.dtype)


class GatedDeltaNet(ResidualBranch):
    """A layer that reads and corrects a matrix per head with every token.

    layer: its number among the layers that keep a state
    A_log, dt_bias: (num_value_heads,), of the decay
    """

    def __init__(
        self, layer: int, sizes: DeltaSizes, eps: float, activation: str, *, channels_last: bool = False
    ) -> None:
        inner_size = sizes.num_value_heads * sizes.value_dim
        self._projections = self._add_projections(sizes)
        self.conv1d = CausalConvolution(
            sizes.mixed_size, sizes.kernel, bias=False, channels_last=channels_last, activation=activation
        )
        self.dt_bias = mx.zeros((sizes.num_value_heads,))
        self.A_log = mx.zeros((sizes.num_value_heads,))
        self.norm = GatedRMSNorm(sizes.value_dim, eps)
        self.out_proj = Linear(inner_size, sizes.hidden_size)
        self._output = FusedProjections(self.out_proj)
        self._layer = layer
        self._sizes = sizes
        self._activation = activation

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        """x: (rows, length, hidden_size); returns the same shape."""
        return self.out_proj(self._found(x, batch))

    def add_to(self, x: mx.array, norm: Norm, batch: Batch) -> mx.array:
        """x + self(norm(x), batch)."""
        return self._output.add_to(x, self._found(x, batch, norm))

    def _found(self, x: mx.array, batch: Batch, norm: Norm | None = None) -> mx.array:
        """The gated results of the heads for norm(x), side by side: (rows, length, inner size)."""
        mixed, gate, rates, steps = self._project(x, norm)
        tail, memory = batch.state(self._layer) or (None, None)
        mixed, tail = self.conv1d(mixed, tail)
        found, memory = self._update(mixed, steps, rates, memory)
        batch.keep_state(self._layer, [tail, memory])
        gated = self.norm.gated(found.astype(x.dtype), gate.reshape(found.shape), self._activation)
        return gated.reshape(gate.shape)

    def _add_projections(self, sizes: DeltaSizes) -> FusedProjections:
        self.in_proj_qkv = Linear(sizes.hidden_size, sizes.mixed_size)
        self.in_proj_z = Linear(sizes.hidden_size, sizes.num_value_heads * sizes.value_dim)
        self.in_proj_b = Linear(sizes.hidden_size, sizes.num_value_heads)
        self.in_proj_a = Linear(sizes.hidden_size, sizes.num_value_heads)
        return FusedProjections(self.in_proj_qkv, self.in_proj_z, self.in_proj_b, self.in_proj_a)

    def _project(self, x: mx.array, norm: Norm | None) -> list[mx.array]:
        """Queries, keys and values side by side; the gate; per value head a rate of learning and a time step."""
        return self._projections.project(x, norm)

    def _update(
        self, mixed: mx.array, steps: mx.array, rates: mx.array, memory: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        sizes = self._sizes
        if self._native is None or mixed.dtype != mx.float32:
            return gated_delta(mixed, steps, rates, self.A_log, self.dt_bias, memory, sizes)
        heads = sizes.num_key_heads, sizes.key_dim, sizes.value_dim
        constants = self.A_log, self.dt_bias
        found, memory = self._native.gated_delta(mixed, steps, rates, *constants, memory, *heads, sizes.tiled)
        return found, memory


class FusedGatedDeltaNet(GatedDeltaNet):
    """A gated DeltaNet with two joint projections, which go key head by key head."""

    def _add_projections(self, sizes: DeltaSizes) -> FusedProjections:
        inner_size = sizes.num_value_heads * sizes.value_dim
        self.in_proj_qkvz = Linear(sizes.hidden_size, sizes.mixed_size + inner_size)
        self.in_proj_ba = Linear(sizes.hidden_size, 2 * sizes.num_value_heads)
        return FusedProjections(self.in_proj_qkvz, self.in_proj_ba)

    def _project(self, x: mx.array, norm: Norm | None) -> list[mx.array]:
        sizes, shape = self._sizes, x.shape[:2]
        share = sizes.num_value_heads // sizes.num_key_heads * sizes.value_dim
        both, factors = (each.reshape(*shape, sizes.num_key_heads, -1) for each in self._projections.project(x, norm))
        ends = [sizes.key_dim, 2 * sizes.key_dim, 2 * sizes.key_dim + share]
        *mixed, gate = (part.reshape(*shape, -1) for part in mx.split(both, ends, axis=-1))
        rates, steps = (part.reshape(*shape, -1) for part in mx.split(factors, 2, axis=-1))
        return [mx.concatenate(mixed, axis=-1), gate, rates, steps]


class PartlyFusedGatedDeltaNet(GatedDeltaNet):
    """The same with rates and steps in one projection alone, which go key head by key head (llama.cpp's files)."""

    def _add_projections(self, sizes: DeltaSizes) -> FusedProjections:
        self.in_proj_qkv = Linear(sizes.hidden_size, sizes.mixed_size)
        self.in_proj_z = Linear(sizes.hidden_size, sizes.num_value_heads * sizes.value_dim)
        self.in_proj_ba = Linear(sizes.hidden_size, 2 * sizes.num_value_heads)
        return FusedProjections(self.in_proj_qkv, self.in_proj_z, self.in_proj_ba)

    def _project(self, x: mx.array, norm: Norm | None) -> list[mx.array]:
        mixed, gate, factors = self._projections.project(x, norm)
        shape = x.shape[:2]
        halves = mx.split(factors.reshape(*shape, self._sizes.num_key_heads, -1), 2, axis=-1)
        return [mixed, gate, *(half.reshape(*shape, -1) for half in halves)]


def gated_delta(
    mixed: mx.array,
    steps: mx.array,
    rates: mx.array,
    log_speeds: mx.array,
    biases: mx.array,
    memory: mx.array | None,
    sizes: DeltaSizes,
) -> tuple[mx.array, mx.array]:
    """Go on with the gated delta rule in MLX's operations.

    mixed: queries, keys and values side by side, (rows, length, mixed_size)
    steps, rates: of the decay and of the correction, (rows, length, num_value_heads), before their activations
    log_speeds, biases: of the decay, (num_value_heads,)
    memory: (rows, num_value_heads, value_dim, key_dim) float32, or None before the first token
    Returns (rows, length, num_value_heads, value_dim), and the new memory.
    """
    queries, keys, values = _heads(mixed, sizes)
    steps = steps.astype(mx.float32) + biases
    decay = mx.exp(-mx.exp(log_speeds.astype(mx.float32)) * mx.logaddexp(steps, mx.zeros_like(steps)))
    found, memory = mx.fast.gated_delta_update(queries, keys, values, decay, mx.sigmoid(rates), memory)
    return found, memory


def _heads(mixed: mx.array, sizes: DeltaSizes) -> tuple[mx.array, mx.array, mx.array]:
    """Queries and keys of length 1, (rows, length, num_key_heads, key_dim), and values, (..., value_dim)."""
    shape = mixed.shape[:2]
    width = sizes.num_key_heads * sizes.key_dim
    queries, keys, values = mx.split(mixed, [width, 2 * width], axis=-1)
    queries = _of_length_one(queries.reshape(*shape, sizes.num_key_heads, sizes.key_dim)) * sizes.key_dim**-0.5
    keys = _of_length_one(keys.reshape(*shape, sizes.num_key_heads, sizes.key_dim))
    if sizes.tiled:
        share = sizes.num_value_heads // sizes.num_key_heads
        queries, keys = mx.tile(queries, (1, 1, share, 1)), mx.tile(keys, (1, 1, share, 1))
    return queries, keys, values.reshape(*shape, sizes.num_value_heads, sizes.value_dim)


def _of_length_one(x: mx.array) -> mx.array:
    return x * mx.rsqrt(mx.sum(mx.square(x), axis=-1, keepdims=True) + 1e-6)
