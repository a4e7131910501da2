"""Positions as numbers: of new tokens, the buckets of their distances, and a scale of queries that grows with them."""

import math
from dataclasses import dataclass

import mlx.core as mx

from engine.attention.batch import Batch


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


@dataclass(frozen=True, slots=True)
class PositionScaling:
    """Factor 1 + beta * log(1 + floor((position + shift) / length)) on the queries (Llama 4, arXiv:2501.19399).

    length: positions after which the factor takes its next step
    """

    beta: float
    length: int
    shift: int = 0

    def apply(self, queries: mx.array, batch: Batch) -> mx.array:
        """Scale queries (rows, length, width)."""
        steps = positions(batch.offsets, queries.shape[1]) + self.shift
        factors = 1 + self.beta * mx.log(1 + (steps // self.length).astype(mx.float32))
        return queries * factors[..., None].astype(queries.dtype)
