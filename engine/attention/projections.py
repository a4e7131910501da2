"""Queries, keys and values of new tokens as projections leave them. Knows shapes and positions, no cache."""

from dataclasses import dataclass

import mlx.core as mx

from engine.attention.heads import join_heads, split_heads
from engine.attention.rotation import Rotation


@dataclass(frozen=True, slots=True)
class QKV:
    """Queries, keys and values of new tokens.

    queries: (rows, num_heads, length, head_dim); keys, values: (rows, num_kv_heads, length, head_dim)
    head_dim: given where heads lie side by side instead: (rows, length, num_heads * head_dim) and so on
    rotation: to be applied to queries and keys; None where positions are in them already, or nowhere
    """

    queries: mx.array
    keys: mx.array
    values: mx.array
    head_dim: int | None = None
    rotation: Rotation | None = None

    @property
    def length(self) -> int:
        """New tokens per row."""
        return int(self.queries.shape[-2])

    def of_rows(self, rows: slice) -> "QKV":
        """Queries, keys and values of some of the rows."""
        return QKV(self.queries[rows], self.keys[rows], self.values[rows], self.head_dim, self.rotation)

    def rotated_heads(self, offsets: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Queries, keys and values with their heads apart, rotated.

        offsets: position of the first token, one for all rows or (rows,)
        """
        queries, keys, values = (self._heads(each) for each in (self.queries, self.keys, self.values))
        if self.rotation is None:
            return queries, keys, values
        rotation = self.rotation.at(offsets)
        return rotation.apply(queries), rotation.apply(keys), values

    def heads_of_keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Keys and values with their heads apart, not rotated."""
        return self._heads(self.keys), self._heads(self.values)

    def like_queries(self, attended: mx.array) -> mx.array:
        """Attention's result (rows, num_heads, length, head_dim) in the shape that the queries came in."""
        return attended if self.head_dim is None else join_heads(attended)

    def _heads(self, x: mx.array) -> mx.array:
        return x if self.head_dim is None else split_heads(x, x.shape[-1] // self.head_dim)
