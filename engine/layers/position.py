"""Positions as numbers: of new tokens, and the buckets of their distances."""

import math

import mlx.core as mx


def positions(offsets: int | mx.array, length: int) -> mx.array:
    """Position numbers from each row's offset on.

    offsets: one for all rows, or (rows,); returns (length,) or (rows, length) int32
    """
    steps = mx.arange(length)
    return steps + offsets if isinstance(offsets, int) else offsets[:, None] + steps


def relative_buckets(distance: mx.array, num_buckets: int, max_distance: int, *, bidirectional: bool) -> mx.array:
    """Bucket of every key-minus-query distance: exact when near, logarithmic up to max_distance."""
    base = mx.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        base = (distance > 0) * num_buckets
        distance = mx.abs(distance)
    else:
        distance = mx.maximum(-distance, 0)
    exact = num_buckets // 2
    ratio = mx.log(mx.maximum(distance, 1).astype(mx.float32) / exact) / math.log(max_distance / exact)
    far = mx.minimum(exact + (ratio * (num_buckets - exact)).astype(mx.int32), num_buckets - 1)
    return base + mx.where(distance < exact, distance, far)
