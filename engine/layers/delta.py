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

    def __init__(self, layer: int, sizes: DeltaSizes, eps: float, activation: str) -> None:
        inner_size = sizes.num_value_heads * sizes.value_dim
        self.in_proj_qkv = Linear(sizes.hidden_size, sizes.mixed_size)
        self.in_proj_z = Linear(sizes.hidden_size, inner_size)
        self.in_proj_b = Linear(sizes.hidden_size, sizes.num_value_heads)
        self.in_proj_a = Linear(sizes.hidden_size, sizes.num_value_heads)
        self.conv1d = CausalConvolution(sizes.mixed_size, sizes.kernel, bias=False)
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
        mixed, tail = self.conv1d(self.in_proj_qkv(x), tail)
        queries, keys, values = self._heads(ACTIVATIONS[self._activation](mixed))
        found, memory = mx.fast.gated_delta_update(
            queries, keys, values, self._decay(x), mx.sigmoid(self.in_proj_b(x)), memory
        )
        batch.keep_state(self._layer, [tail, memory])
        gate = self.in_proj_z(x).reshape(*x.shape[:2], sizes.num_value_heads, sizes.value_dim)
        gated = self.norm.gated(found.astype(x.dtype), gate, self._activation)
        return self.out_proj(gated.reshape(*x.shape[:2], -1))

    def _heads(self, mixed: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Queries and keys of length 1, (rows, length, num_key_heads, key_dim), and values, (..., value_dim)."""
        sizes, shape = self._sizes, mixed.shape[:2]
        width = sizes.num_key_heads * sizes.key_dim
        queries, keys, values = mx.split(mixed, [width, 2 * width], axis=-1)
        queries = _of_length_one(queries.reshape(*shape, sizes.num_key_heads, sizes.key_dim)) * sizes.key_dim**-0.5
        keys = _of_length_one(keys.reshape(*shape, sizes.num_key_heads, sizes.key_dim))
        return queries, keys, values.reshape(*shape, sizes.num_value_heads, sizes.value_dim)

    def _decay(self, x: mx.array) -> mx.array:
        """What the memory is multiplied with before each token: (rows, length, num_value_heads), from 0 to 1."""
        steps = self.in_proj_a(x).astype(mx.float32) + self.dt_bias
        return mx.exp(-mx.exp(self.A_log.astype(mx.float32)) * mx.logaddexp(steps, mx.zeros_like(steps)))


def _of_length_one(x: mx.array) -> mx.array:
    return x * mx.rsqrt(mx.sum(mx.square(x), axis=-1, keepdims=True) + 1e-6)
