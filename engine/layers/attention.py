"""Self-attention with grouped key heads and rotary positions."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from engine.cache.rows import Rows
from engine.layers.linear import Linear
from engine.layers.module import Module
from engine.layers.rope import Rope


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """Sizes of one attention layer.

    scale: factor on the scores; None is 1 / sqrt(head_dim)
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float | None = None


class SelfAttention(Module):
    """Causal attention of one decoder layer.

    layer: its number, which finds its keys and values in the cache
    rope: None leaves positions out
    bias, output_bias: of the projections to queries, keys and values, and of the one back
    q_norm, k_norm: applied to every head before the rotation
    softcap: see engine.layers.attend
    """

    def __init__(
        self,
        layer: int,
        sizes: HeadSizes,
        rope: Rope | None,
        *,
        bias: bool = False,
        output_bias: bool = False,
        q_norm: Callable[[mx.array], mx.array] | None = None,
        k_norm: Callable[[mx.array], mx.array] | None = None,
        softcap: float | None = None,
    ) -> None:
        self.q_proj = Linear(sizes.hidden_size, sizes.num_heads * sizes.head_dim, bias=bias)
        self.k_proj = Linear(sizes.hidden_size, sizes.num_kv_heads * sizes.head_dim, bias=bias)
        self.v_proj = Linear(sizes.hidden_size, sizes.num_kv_heads * sizes.head_dim, bias=bias)
        self.o_proj = Linear(sizes.num_heads * sizes.head_dim, sizes.hidden_size, bias=output_bias)
        if q_norm is not None and k_norm is not None:
            self.q_norm = q_norm
            self.k_norm = k_norm
        self._normed = q_norm is not None
        self._layer = layer
        self._sizes = sizes
        self._rope = rope
        self._softcap = softcap
        self._scale = sizes.head_dim**-0.5 if sizes.scale is None else sizes.scale

    def __call__(self, x: mx.array, rows: Rows) -> mx.array:
        """x: (rows, length, hidden_size); returns the same shape."""
        queries, keys = self.queries_and_keys(x)
        values = split_heads(self.v_proj(x), self._sizes.num_kv_heads)
        if self._rope is not None:
            queries = self._rope(queries, rows.offsets, rows.planned_lengths)
            keys = self._rope(keys, rows.offsets, rows.planned_lengths)
        attended = rows.attend(self._layer, queries, keys, values, self._scale, softcap=self._softcap)
        return self.o_proj(join_heads(attended))

    def queries_and_keys(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """(rows, num_heads, length, head_dim) and (rows, num_kv_heads, length, head_dim), not rotated yet."""
        queries = split_heads(self.q_proj(x), self._sizes.num_heads)
        keys = split_heads(self.k_proj(x), self._sizes.num_kv_heads)
        return (self.q_norm(queries), self.k_norm(keys)) if self._normed else (queries, keys)


def split_heads(x: mx.array, num_heads: int) -> mx.array:
    """(rows, length, num_heads * head_dim) to (rows, num_heads, length, head_dim)."""
    num_rows, length, _ = x.shape
    return x.reshape(num_rows, length, num_heads, -1).transpose(0, 2, 1, 3)


def join_heads(x: mx.array) -> mx.array:
    """(rows, num_heads, length, head_dim) to (rows, length, num_heads * head_dim)."""
    num_rows, _, length, _ = x.shape
    return x.transpose(0, 2, 1, 3).reshape(num_rows, length, -1)
