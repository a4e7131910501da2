"""Queries that grow with their position, so that attention stays sharp in long texts (Llama 4, arXiv:2501.19399)."""

from dataclasses import dataclass

import mlx.core as mx

from engine.attention.batch import Batch
from engine.layers.position import positions


@dataclass(frozen=True, slots=True)
class PositionScaling:
    """Factor 1 + beta * log(1 + floor((position + shift) / length)) on the queries.

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
