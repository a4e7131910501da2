"""Store new keys and values and attend to the cache in one call of a kernel. Knows slots and planes; no tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from engine.attention.options import AttentionOptions
from engine.attention.rotation import Rotation
from engine.cache.layout import Planes
from engine.native.kernels import Kernels


@dataclass(frozen=True, slots=True)
class KVLocation:
    """The cache entries of each row. Each is one number for all rows, or (rows,) integers.

    slots: the slot of the planes, None for the row's own number; no two rows with new tokens share a slot
    starts: the entry that the first new token goes to; all new tokens must fit in
    lengths: the number of entries that the row's last query sees, counted from entry 0, new tokens included
    """

    slots: int | mx.array | None
    starts: int | mx.array
    lengths: int | mx.array


def attend_cached(
    kernels: Kernels,
    queries: mx.array,
    planes: Planes,
    tokens: Sequence[mx.array],
    location: KVLocation,
    options: AttentionOptions,
    rotation: Rotation | None = None,
    bits: int = 0,
) -> tuple[mx.array, Planes]:
    """Rotate queries and new keys, write new keys and values into their slots, and attend.

    queries: float32, (rows, num_heads, length, head_dim), or (rows, length, num_heads * head_dim) as projections leave
        them
    planes: keys (slots, num_kv_heads, entries, head_dim) and values (..., value_dim); where bits is 8 or 4, quantised
        keys, their scales and biases, and the same of values, as engine.cache.layout has them. The kernel writes them
        where they lie when nothing else refers to them: the caller lets go of them and keeps what is returned
    tokens: new keys and values, (rows, num_kv_heads, length, head_dim) or (rows, length, num_kv_heads * head_dim), in
        the dtype of the planes unless these are quantised; none to attend only, and then the planes may be views
    options: the lengths hold besides the mask
    Returns the attended, (rows, num_heads, length, value_dim) or (rows, length, num_heads * value_dim) like the
    queries, and the planes. A row's result is the same whatever it is computed with: other rows, more queries of its
    own, or threads.
    """
    given = None
    if rotation is not None:
        given = (rotation.periods, rotation.offsets, rotation.interleaved, rotation.magnitude)
    attended, *written = kernels.attend_cached(
        queries,
        planes,
        tokens,
        location.slots,
        location.starts,
        location.lengths,
        options.scale,
        options.causal,
        options.window or 0,
        options.softcap or 0.0,
        options.sinks,
        options.mask,
        given,
        bits,
    )
    return attended, written or planes
