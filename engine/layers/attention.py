"""Self-attention with grouped key heads and rotary positions."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from engine.cache.rows import Rows
from engine.layers.fused import Norm, project, project_onto
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
        return self.o_proj(self.attended(x, rows))

    def onto(self, x: mx.array, norm: Norm, rows: Rows) -> mx.array:
        """x + self(norm(x), rows)."""
        return project_onto(x, self.attended(x, rows, norm), self.o_proj)

    def attended(self, x: mx.array, rows: Rows, norm: Norm | None = None) -> mx.array:
        """What the heads find for norm(x), side by side: (rows, length, num_heads * head_dim)."""
        queries, keys, values = self.heads(x, norm)
        if self._rope is not None:
            queries = self._rope(queries, rows.offsets, rows.planned_lengths)
            keys = self._rope(keys, rows.offsets, rows.planned_lengths)
        found = rows.attend(
            self._layer, queries, keys, values, self._scale, sinks=self.head_sinks, softcap=self._softcap
        )
        return join_heads(found)

    def heads(self, x: mx.array, norm: Norm | None) -> tuple[mx.array, mx.array, mx.array]:
        """Queries (rows, num_heads, length, head_dim), keys and values (rows, num_kv_heads, ...), not rotated yet."""
        queries, keys, values = project(x, self.q_proj, self.k_proj, self.v_proj, norm=norm)
        queries, keys = split_heads(queries, self._sizes.num_heads), split_heads(keys, self._sizes.num_kv_heads)
        if self._normed:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        return queries, keys, split_heads(values, self._sizes.num_kv_heads)

    @property
    def head_sinks(self) -> mx.array | None:
        """Logits (num_heads,) that join the softmax's denominator."""
        return None


def split_heads(x: mx.array, num_heads: int) -> mx.array:
    """(rows, length, num_heads * head_dim) to (rows, num_heads, length, head_dim)."""
    num_rows, length, _ = x.shape
    return x.reshape(num_rows, length, num_heads, -1).transpose(0, 2, 1, 3)


def join_heads(x: mx.array) -> mx.array:
    """(rows, num_heads, length, head_dim) to (rows, length, num_heads * head_dim)."""
    num_rows, _, length, _ = x.shape
    return x.transpose(0, 2, 1, 3).reshape(num_rows, length, -1)
