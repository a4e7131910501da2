"""The part of a batch whose rows attend together, and the one call that stores and attends for it."""

from collections.abc import Callable
from typing import Protocol

import mlx.core as mx

from engine.attention.attend_cached import KVLocation, attend_cached
from engine.attention.options import AttentionOptions
from engine.attention.projections import QKV
from engine.cache.slab import Slab

# Given the first query's position (or (rows,) of them), the number of queries and the number of keys, the biases
# (1 or rows, num_heads, queries, keys).
PositionBias = Callable[[int | mx.array, int, int], mx.array]


class BatchView(Protocol):
    """Rows of a batch that attend together.

    slab: the slab in which all of them have their slots
    indices: the numbers of these slots
    """

    size: int
    slab: Slab
    indices: list[int]

    def attend_with_kernels(self, layer: int, new: QKV, options: AttentionOptions) -> mx.array:
        """Store new keys and values, and attend to what each row sees, in one call of a kernel."""

    def attend(self, layer: int, new: QKV, options: AttentionOptions, bias: mx.array | None = None) -> mx.array:
        """Store new keys and values, and attend to what each row sees, in MLX's operations."""

    def attend_source(self, layer: int, queries: mx.array, scale: float) -> mx.array:
        """Attend to each row's source."""

    def bias(self, of_positions: PositionBias, length: int) -> mx.array:
        """Position biases between the new tokens and all that these rows see."""


def store_and_attend(
    slab: Slab, layer: int, new: QKV, location: KVLocation, options: AttentionOptions, offsets: int | mx.array
) -> mx.array:
    """Store new tokens and attend to what their rows see, in one call of a kernel.

    offsets: position of the first new token, one for all rows or (rows,)
    """
    assert slab.kernels is not None  # asked where the kernels attend
    own = slab.layers[layer]
    if not own.planes:
        own.make(slab.layout.planes(*new.heads_of_keys_and_values()))
    # The kernel writes in place what nobody else refers to.
    planes, own.planes = own.planes, []
    rotation = None if new.rotation is None else new.rotation.at(offsets)
    attended, own.planes = attend_cached(
        slab.kernels, new.queries, planes, (new.keys, new.values), location, options, rotation, slab.layout.bits
    )
    return attended
