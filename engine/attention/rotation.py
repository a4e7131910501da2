"""Rotary positions as a value, which MLX's operations or a kernel apply. Knows angles; knows no model."""

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
