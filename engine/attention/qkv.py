"""Queries, keys and values of new tokens: split by head, joined again, rotated by position. Knows no cache."""

from dataclasses import dataclass, replace

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary positions of new queries and keys.

    periods: (pairs,) float32; the angle of pair i at position p is p / periods[i]
    offsets: position of each row's first token: one for all rows, or (rows,) integers
    interleaved: pair i is dimensions (2 i, 2 i + 1), else (i, i + pairs)
    magnitude: factor on rotated dimensions
    """

    periods: mx.array
    offsets: int | mx.array
    interleaved: bool = False
    magnitude: float = 1.0

    def at(self, offsets: int | mx.array) -> "Rotation":
        """The rotation of rows whose first tokens are at these positions."""
        return replace(self, offsets=offsets)

    def apply(self, x: mx.array) -> mx.array:
        """Rotate (rows, heads, length, head_dim)."""
        dims = 2 * self.periods.size
        if self.magnitude != 1.0:
            x = mx.concatenate([x[..., :dims] * self.magnitude, x[..., dims:]], axis=-1)
        return mx.fast.rope(
            x, dims, traditional=self.interleaved, base=None, scale=1.0, offset=self.offsets, freqs=self.periods
        )


def split_heads(x: mx.array, num_heads: int) -> mx.array:
    """(rows, length, num_heads * head_dim) to (rows, num_heads, length, head_dim)."""
    num_rows, length, _ = x.shape
    return x.reshape(num_rows, length, num_heads, -1).transpose(0, 2, 1, 3)


def join_heads(x: mx.array) -> mx.array:
    """(rows, num_heads, length, head_dim) to (rows, length, num_heads * head_dim)."""
    num_rows, _, length, _ = x.shape
    return x.transpose(0, 2, 1, 3).reshape(num_rows, length, -1)


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries of new tokens.

    queries: (rows, num_heads, length, head_dim)
    head_dim: given where heads lie side by side instead: (rows, length, num_heads * head_dim)
    rotation: to be applied; None where positions are in them already, or nowhere
    """

    queries: mx.array
    head_dim: int | None
    rotation: Rotation | None

    @property
    def length(self) -> int:
        """New tokens per row."""
        return int(self.queries.shape[-2])

    def of_rows(self, rows: slice) -> "Queries":
        """Queries of some of the rows."""
        return replace(self, queries=self.queries[rows])

    def rotation_at(self, offsets: int | mx.array) -> Rotation | None:
        """The rotation for first tokens at these positions: one for all rows or (rows,)."""
        return None if self.rotation is None else self.rotation.at(offsets)

    def rotated_queries(self, offsets: int | mx.array) -> mx.array:
        """Queries with their heads apart, rotated.

        offsets: position of the first token, one for all rows or (rows,)
        """
        return _rotated(self._heads(self.queries), self.rotation_at(offsets))

    def like_queries(self, attended: mx.array) -> mx.array:
        """Attention's result (rows, num_heads, length, head_dim) in the shape that the queries came in."""
        return attended if self.head_dim is None else join_heads(attended)

    def _heads(self, x: mx.array) -> mx.array:
        return x if self.head_dim is None else split_heads(x, x.shape[-1] // self.head_dim)


@dataclass(frozen=True, slots=True)
class QKV(Queries):
    """Queries, keys and values of new tokens.

    keys, values: (rows, num_kv_heads, length, head_dim), or with heads side by side as those of queries
    values: None where the keys contain them
    rotation: of queries and keys
    """

    keys: mx.array
    values: mx.array | None

    def of_rows(self, rows: slice) -> "QKV":
        """Queries, keys and values of some of the rows."""
        values = None if self.values is None else self.values[rows]
        return replace(self, queries=self.queries[rows], keys=self.keys[rows], values=values)

    def of_tokens(self, start: int, end: int) -> "QKV":
        """Queries, keys and values of some of the new tokens."""
        values = None if self.values is None else self.values[..., start:end, :]
        return replace(self, queries=self.queries[..., start:end, :], keys=self.keys[..., start:end, :], values=values)

    def rotated_heads(self, offsets: int | mx.array) -> tuple[mx.array, mx.array, mx.array | None]:
        """Queries, keys and values with their heads apart, rotated.

        offsets: position of the first token, one for all rows or (rows,)
        """
        keys, values = self.heads_of_keys_and_values()
        return self.rotated_queries(offsets), _rotated(keys, self.rotation_at(offsets)), values

    def heads_of_keys_and_values(self) -> tuple[mx.array, mx.array | None]:
        """Keys and values with their heads apart, not rotated."""
        return self._heads(self.keys), None if self.values is None else self._heads(self.values)


def _rotated(heads: mx.array, rotation: Rotation | None) -> mx.array:
    return heads if rotation is None else rotation.apply(heads)
