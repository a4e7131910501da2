"""Bytes that a model keeps per token: measured on one token, so that no architecture is special."""

from collections import Counter

import mlx.core as mx

from engine.attention.batch import Batch
from engine.cache.kv_budget import TokenBytes
from engine.cache.layout import Layout, Planes
from engine.cache.slots import LayerSlab, lone_slot
from engine.layers.module import EncoderDecoder
from engine.machine import memory_bytes
from engine.model import CausalModel

_RESERVE_BYTES = 1 << 30  # for activations, the process itself and its neighbours
_SMALLEST_BYTES = 256 << 20


def measure(model: CausalModel, layout: Layout) -> TokenBytes:
    """Bytes per token, from what one token leaves in every layer. Raises CheckpointUnsupported as `layout` does."""
    source_length = 1 if isinstance(model, EncoderDecoder) else 0
    slot = lone_slot(model.cache, layout, 1, source_length)
    token = mx.zeros((1, 1), mx.int32)
    if isinstance(model, EncoderDecoder):
        slot.store_source(model.encode(token))
    mx.eval(model.logits(model(token, Batch([slot]))))
    rings: Counter[int] = Counter()
    for layer in slot.slab.layers:
        if layer.window is not None:
            rings[layer.window] += _bytes_per_place(layer)
    full = sum(_bytes_per_place(layer) for layer in slot.slab.layers if layer.window is None)
    source = sum(_bytes_per_place(layer) for layer in slot.slab.sources)
    state = sum(array.nbytes for each in slot.slab.states for array in each.arrays)
    return TokenBytes(full, tuple(sorted(rings.items())), source, state)


def free_bytes(weight_bytes: int) -> int:
    """Bytes that a model with these weights may fill with keys and values, of this machine's memory."""
    return max(_SMALLEST_BYTES, int(0.75 * memory_bytes()) - 2 * weight_bytes - _RESERVE_BYTES)


def _bytes_per_place(layer: LayerSlab) -> int:
    planes: Planes = layer.planes
    return sum(plane.nbytes for plane in planes) // layer.places
