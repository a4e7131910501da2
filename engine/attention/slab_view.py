"""Rows of one slab that attend together, with one new token each. Knows their slots and lengths; knows no tokens."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import mlx.core as mx

from engine.attention.attend import attend, with_bias
from engine.attention.attend_cached import KVLocation
from engine.attention.options import AttentionOptions
from engine.attention.projections import QKV
from engine.attention.view import PositionBias, store_and_attend
from engine.cache.slab import LayerSlab
from engine.cache.slots import Slot

_READ_STEP = 32  # the part of a slab that is read grows in such steps, so that shapes repeat from token to token


class SlabView:
    """Rows of one slab, with one new token each.

    The slab is read as it lies, up to the longest row: a slot that has no row in this pass computes a result that
    nobody reads.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.size = len(slots)
        self.slab = slots[0].slab
        self.indices = [slot.index for slot in slots]
        self._lengths = [slot.length for slot in slots]
        self._source_lengths = [slot.source_length for slot in slots]
        self._starts: dict[int | None, mx.array] = {}
        self._counts: dict[int | None, mx.array] = {}
        self._masks: dict[int | None, mx.array] = {}

    def attend(self, layer: int, new: QKV, options: AttentionOptions, bias: mx.array | None = None) -> mx.array:
        """Store new keys and values, and attend to what each row sees, in MLX's operations."""
        queries, keys, values = new.rotated_heads(self._offsets)
        layout, slab = self.slab.layout, self.slab.layers[layer]
        slab.write_each(self._slots, self._starts_in(slab), layout.planes(keys, values))
        mask = self._mask(slab.window, slab.places)
        seen = layout.keys_and_values([plane[:, :, : mask.shape[-1]] for plane in slab.planes])
        options = replace(options, causal=False, mask=mask if bias is None else with_bias(mask, bias))
        return new.like_queries(self._by_row(attend(self._by_slot(queries), *seen, options)))

    def attend_with_kernels(self, layer: int, new: QKV, options: AttentionOptions) -> mx.array:
        """Store new keys and values, and attend to what each row sees, in one call of a kernel."""
        slab = self.slab.layers[layer]
        location = KVLocation(self._slots, self._starts_in(slab), self._counts_in(slab))
        return store_and_attend(self.slab, layer, new, location, options, self._offsets)

    def attend_source(self, layer: int, queries: mx.array, scale: float) -> mx.array:
        """Attend to each row's source."""
        longest = max(self._source_lengths)
        planes = [plane[:, :, :longest] for plane in self.slab.sources[layer].planes]
        options = AttentionOptions(scale, causal=False, mask=_up_to(self._spread(self._source_lengths), longest))
        return self._by_row(attend(self._by_slot(queries), *self.slab.layout.keys_and_values(planes), options))

    def bias(self, of_positions: PositionBias, length: int) -> mx.array:
        """Position biases between the new tokens and all that the rows see."""
        context = self._mask(None, self.slab.capacity).shape[-1]
        return of_positions(mx.array(self._spread(self._lengths)), length, context)

    @cached_property
    def _offsets(self) -> mx.array:
        """Position of each row's new token."""
        return mx.array(self._lengths)

    @cached_property
    def _slots(self) -> mx.array:
        return mx.array(self.indices)

    @cached_property
    def _whole(self) -> bool:
        """True when the rows are the slab's slots in order: nothing has to be brought from one to the other."""
        return self.indices == list(range(self.slab.num_slots))

    @cached_property
    def _row_of_slot(self) -> mx.array:
        return mx.array(self._spread(list(range(self.size)), 0))

    def _by_slot(self, queries: mx.array) -> mx.array:
        return queries if self._whole else queries[self._row_of_slot]

    def _by_row(self, attended: mx.array) -> mx.array:
        return attended if self._whole else attended[self._slots]

    def _spread(self, values: Sequence[int], missing: int = 1) -> list[int]:
        """One value per slot from one value per row."""
        spread = [missing] * self.slab.num_slots
        for index, value in zip(self.indices, values, strict=True):
            spread[index] = value
        return spread

    def _starts_in(self, slab: LayerSlab) -> mx.array:
        if slab.window not in self._starts:
            starts = self._lengths if slab.window is None else [each % slab.window for each in self._lengths]
            self._starts[slab.window] = mx.array(starts)
        return self._starts[slab.window]

    def _counts_in(self, slab: LayerSlab) -> mx.array:
        """The number of entries that each row sees."""
        if slab.window not in self._counts:
            most = self.slab.capacity if slab.window is None else slab.window
            self._counts[slab.window] = mx.array([min(length + 1, most) for length in self._lengths])
        return self._counts[slab.window]

    def _mask(self, window: int | None, num_entries: int) -> mx.array:
        """The entries that each slot's new token sees: bool (num_slots, 1, 1, entries read)."""
        if window not in self._masks:
            counts = [length + 1 for length in self._lengths]
            counts = counts if window is None else [min(count, window) for count in counts]
            read = min(num_entries, -(-max(counts) // _READ_STEP) * _READ_STEP)
            self._masks[window] = _up_to(self._spread(counts), read)
        return self._masks[window]


def _up_to(counts: list[int], num_entries: int) -> mx.array:
    return mx.arange(num_entries) < mx.array(counts)[:, None, None, None]
