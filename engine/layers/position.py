"""Absolute positions of the new tokens of a forward pass."""

import mlx.core as mx


def positions(offsets: int | mx.array, length: int) -> mx.array:
    """Position numbers from each row's offset on.

    offsets: one for all rows, or (rows,); returns (length,) or (rows, length) int32
    """
    steps = mx.arange(length)
    return steps + offsets if isinstance(offsets, int) else offsets[:, None] + steps
