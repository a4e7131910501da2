"""Gated DeltaNet: linear attention whose memory is a matrix per head (Yang et al. 2024, arXiv:2412.06464)."""

from dataclasses import dataclass

import mlx.core as mx

from engine.attention.batch import Batch
from engine.layers.activations import ACTIVATIONS
from engine.layers.convolution import CausalConvolution
from engine.layers.linear import Linear
from engine.layers.module import Module
from engine.layers.norm import RMSNorm


@dataclass(frozen=True, slots=True)
class DeltaSizes:
    """Sizes of one layer. Each key head serves num_value_heads // num_key_heads value heads.

    kernel: width of the convolution over queries, keys and values
    """

    hidden_size: int
    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @property
    def mixed_size(self) -> int:
        """Queries, keys and values of a token, side by side."""
        return 2 * self.num_key_heads * self.key_dim + self.num_value_heads * self.value_dim


class GatedRMSNorm(RMSNorm):
    """RMSNorm times an activated gate."""

    def gated(self, x: mx.array, gate: mx.array, activation: str) -> mx.array:
        """norm(x) * activation(gate); both (..., size)."""
        return self(x) * ACTIVATIONS[activation](gate.astype(mx.float32)).astype(x.dtype)


class GatedDeltaNet(Module):
    """A layer that reads and corrects a matrix per head with every token.

    layer: its number among the layers that keep a state
    A_log, dt_bias: (num_value_heads,), of the decay
    """

    def __init__(
        self, layer: int, sizes: DeltaSizes, eps: float, activation: str, *, channels_last: bool = False
    ) -> None:
        inner_size = sizes.num_value_heads * sizes.value_dim
        self._add_projections(sizes)
        self.conv1d = CausalConvolution(sizes.mixed_size, sizes.kernel, bias=False, channels_last=channels_last)
        self.dt_bias = mx.zeros((sizes.num_value_heads,))
        self.A_log = mx.zeros((sizes.num_value_heads,))
        self.norm = GatedRMSNorm(sizes.value_dim, eps)
        self.out_proj = Linear(inner_size, sizes.hidden_size)
        self._layer = layer
        self._sizes = sizes
        self._activation = activation

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        """x: (rows, length, hidden_size); returns the same shape."""
        sizes = self._sizes
        tail, memory = batch.state(self._layer) or (None, None)
        mixed, gate, rates, steps = self._project(x)
        mixed, tail = self.conv1d(mixed, tail)
        queries, keys, values = self._heads(ACTIVATIONS[self._activation](mixed))
        found, memory = mx.fast.gated_delta_update(queries, keys, values, self._decay(steps), mx.sigmoid(rates), memory)
        batch.keep_state(self._layer, [tail, memory])
        gate = gate.reshape(*x.shape[:2], sizes.num_value_heads, sizes.value_dim)
        gated = self.norm.gated(found.astype(x.dtype), gate, self._activation)
        return self.out_proj(gated.reshape(*x.shape[:2], -1))

    def _add_projections(self, sizes: DeltaSizes) -> None:
        self.in_proj_qkv = Linear(sizes.hidden_size, sizes.mixed_size)
        self.in_proj_z = Linear(sizes.hidden_size, sizes.num_value_heads * sizes.value_dim)
        self.in_proj_b = Linear(sizes.hidden_size, sizes.num_value_heads)
        self.in_proj_a = Linear(sizes.hidden_size, sizes.num_value_heads)

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """Queries, keys and values side by side; the gate; per value head a rate of learning and a time step."""
        return self.in_proj_qkv(x), self.in_proj_z(x), self.in_proj_b(x), self.in_proj_a(x)

    def _heads(self, mixed: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Queries and keys of length 1, (rows, length, num_key_heads, key_dim), and values, (..., value_dim)."""
        sizes, shape = self._sizes, mixed.shape[:2]
        width = sizes.num_key_heads * sizes.key_dim
        queries, keys, values = mx.split(mixed, [width, 2 * width], axis=-1)
        queries = _of_length_one(queries.reshape(*shape, sizes.num_key_heads, sizes.key_dim)) * sizes.key_dim**-0.5
        keys = _of_length_one(keys.reshape(*shape, sizes.num_key_heads, sizes.key_dim))
        return queries, keys, values.reshape(*shape, sizes.num_value_heads, sizes.value_dim)

    def _decay(self, steps: mx.array) -> mx.array:
        """The factor on the memory before each token, from 0 to 1. steps: (rows, length, num_value_heads)"""
        steps = steps.astype(mx.float32) + self.dt_bias
        return mx.exp(-mx.exp(self.A_log.astype(mx.float32)) * mx.logaddexp(steps, mx.zeros_like(steps)))


class FusedGatedDeltaNet(GatedDeltaNet):
    """A gated DeltaNet with two joint projections, which go key head by key head."""

    def _add_projections(self, sizes: DeltaSizes) -> None:
        inner_size = sizes.num_value_heads * sizes.value_dim
        self.in_proj_qkvz = Linear(sizes.hidden_size, sizes.mixed_size + inner_size)
        self.in_proj_ba = Linear(sizes.hidden_size, 2 * sizes.num_value_heads)

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        sizes, shape = self._sizes, x.shape[:2]
        share = sizes.num_value_heads // sizes.num_key_heads * sizes.value_dim
        by_head = self.in_proj_qkvz(x).reshape(*shape, sizes.num_key_heads, -1)
        ends = [sizes.key_dim, 2 * sizes.key_dim, 2 * sizes.key_dim + share]
        *mixed, gate = (part.reshape(*shape, -1) for part in mx.split(by_head, ends, axis=-1))
        rates, steps = mx.split(self.in_proj_ba(x).reshape(*shape, sizes.num_key_heads, -1), 2, axis=-1)
        return mx.concatenate(mixed, axis=-1), gate, rates.reshape(*shape, -1), steps.reshape(*shape, -1)


def _of_length_one(x: mx.array) -> mx.array:
    return x * mx.rsqrt(mx.sum(mx.square(x), axis=-1, keepdims=True) + 1e-6)
