"""The rows of a batch that attend together: one sequence by itself, or several of one slab. Knows slots and arrays."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import mlx.core as mx

from engine.attention.attend import AttentionOptions, KVLocation, attend, attend_cached, with_bias
from engine.attention.qkv import QKV, Queries
from engine.cache.layout import Planes
from engine.cache.slots import LayerSlab, Slab, Slot

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

    def attend_stored(self, layer: int, new: Queries, options: AttentionOptions) -> mx.array:
        """Attend to the keys of a layer that has attended in this pass; nothing is stored."""

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
    assert new.values is not None  # those in keys have a call of their own
    own = slab.layers[layer]
    if not own.planes:
        own.make(slab.layout.planes(*new.heads_of_keys_and_values()))
    # The kernel writes in place what nobody else refers to.
    planes, own.planes = own.planes, []
    rotation = new.rotation_at(offsets)
    attended, own.planes = attend_cached(
        slab.kernels, new.queries, planes, (new.keys, new.values), location, options, rotation, slab.layout.bits
    )
    return attended


def attend_to_planes(
    slab: Slab, planes: Planes, new: Queries, location: KVLocation, options: AttentionOptions, offsets: int | mx.array
) -> mx.array:
    """Attend to planes as they are, in one call of a kernel. offsets: as in store_and_attend"""
    assert slab.kernels is not None  # asked where the kernels attend
    rotation = new.rotation_at(offsets)
    return attend_cached(slab.kernels, new.queries, planes, (), location, options, rotation, slab.layout.bits)[0]


def attend_to_keys(
    slab: Slab, planes: Planes, queries: mx.array, location: KVLocation, options: AttentionOptions
) -> mx.array:
    """Attend to stored keys that contain the values, with a kernel. queries: (rows, num_heads, length, head_dim)."""
    assert slab.kernels is not None  # asked where the kernels attend
    seen = slab.layout.with_values(planes, options.value_dim)
    return attend_cached(slab.kernels, queries, seen, (), location, options, bits=slab.layout.bits)[0]


class SequenceView:
    """A row by itself, with one new token or many."""

    size = 1

    def __init__(self, slot: Slot) -> None:
        self.slab = slot.slab
        self.indices = [slot.index]
        self._slot = slot
        self._seen: dict[int, tuple[int, Planes]] = {}

    def tokens(self, start: int, end: int) -> Planes:
        """Planes of tokens, layer by layer; from what a ring has lost in this pass, too."""
        found: Planes = []
        for number, layer in enumerate(self.slab.layers):
            if number in self._seen:
                first, planes = self._seen[number]
                found += [plane[:, :, start - first : end - first] for plane in planes]
            else:
                found += layer.tokens(self._slot.index, start, end)
        return found

    def attend(self, layer: int, new: QKV, options: AttentionOptions, bias: mx.array | None = None) -> mx.array:
        """Store new keys and values, and attend to what the row sees, in MLX's operations."""
        if self._is_chunked(layer):
            return self._attend_in_chunks(layer, new, options)
        queries, keys, values = new.rotated_heads(self._slot.length)
        layout = self.slab.layout
        planes, window = self._append(layer, layout.planes(keys, values))
        planes = layout.with_values(planes, options.value_dim)
        options = replace(options, causal=new.length > 1, window=window)
        if bias is not None:
            options = replace(options, mask=with_bias("causal" if options.causal else None, bias))
        return new.like_queries(attend(queries, *layout.keys_and_values(planes), options))

    def attend_with_kernels(self, layer: int, new: QKV, options: AttentionOptions) -> mx.array:
        """Store new keys and values, and attend to what the row sees, in one call of a kernel."""
        if options.value_dim is not None:
            return self._attend_to_keys(layer, new, options)
        if self._is_chunked(layer):
            return self._attend_in_chunks(layer, new, options)
        window, start = self.slab.layers[layer].window, self._slot.length
        end = start + new.length
        if window is None or end <= window:
            location = KVLocation(self._slot.index, start, end)
        elif new.length == 1:
            location = KVLocation(self._slot.index, start % window, window)
        else:
            return self._slide_with_kernels(layer, new, options)
        return store_and_attend(self.slab, layer, new, location, options, start)

    def attend_stored(self, layer: int, new: Queries, options: AttentionOptions) -> mx.array:
        """Attend to the keys of a layer that has attended in this pass; nothing is stored."""
        start, slab = self._slot.length, self.slab.layers[layer]
        planes, window = slab.read(self._slot.index, 0, min(start + new.length, slab.places)), None
        if layer in self._seen:
            planes, window = self._seen[layer][1], slab.window
        options = replace(options, window=window)
        if self.slab.kernels_attend:
            return attend_to_planes(self.slab, planes, new, KVLocation(0, 0, planes[0].shape[2]), options, start)
        options = replace(options, causal=new.length > 1)
        return new.like_queries(attend(new.rotated_queries(start), *self.slab.layout.keys_and_values(planes), options))

    def attend_source(self, layer: int, queries: mx.array, scale: float) -> mx.array:
        """Attend to the row's source."""
        planes = self.slab.sources[layer].read(self._slot.index, 0, self._slot.source_length)
        return attend(queries, *self.slab.layout.keys_and_values(planes), AttentionOptions(scale, causal=False))

    def bias(self, of_positions: PositionBias, length: int) -> mx.array:
        """Position biases between the new tokens and all that the row sees."""
        return of_positions(self._slot.length, length, self._slot.length + length)

    def _is_chunked(self, layer: int) -> bool:
        return self.slab.spec.chunked and self.slab.layers[layer].window is not None

    def _attend_in_chunks(self, layer: int, new: QKV, options: AttentionOptions) -> mx.array:
        """Store and attend chunk by chunk: the ring's first entry is that of the first token of a chunk."""
        slab, start = self.slab.layers[layer], self._slot.length
        assert slab.window is not None  # asked where there is one
        end, window = start + new.length, slab.window
        is_lost = start // window < (end - 1) // window
        first = max(0, start - window)
        seen = [slab.tokens(self._slot.index, first, start)] if is_lost and start else []
        attended, position = [], start
        while position < end:
            stop = min(end, (position // window + 1) * window)
            piece = new.of_tokens(position - start, stop - start)
            attended.append(self._attend_in_chunk(layer, piece, options, position, position % window))
            if is_lost:
                place = position % window
                seen.append(slab.read(self._slot.index, place, place + piece.length))
            position = stop
        if is_lost:
            self._seen[layer] = first, [mx.concatenate([*parts], axis=2) for parts in zip(*seen, strict=True)]
        return attended[0] if len(attended) == 1 else mx.concatenate(attended, axis=-2)

    def _attend_in_chunk(self, layer: int, new: QKV, options: AttentionOptions, position: int, place: int) -> mx.array:
        """Store tokens of one chunk, the first one at this entry of the ring, and attend to the chunk up to them."""
        slab, layout, count = self.slab.layers[layer], self.slab.layout, place + new.length
        if self.slab.kernels_attend:
            location = KVLocation(self._slot.index, place, count)
            return store_and_attend(self.slab, layer, new, location, options, position)
        queries, keys, values = new.rotated_heads(position)
        slab.write(self._slot.index, place, layout.planes(keys, values))
        planes = slab.read(self._slot.index, 0, count)
        options = replace(options, causal=new.length > 1)
        return new.like_queries(attend(queries, *layout.keys_and_values(planes), options))

    def _attend_to_keys(self, layer: int, new: QKV, options: AttentionOptions) -> mx.array:
        """Store new keys, and attend to the keys that the row sees with the values in them; without windows."""
        start, slab = self._slot.length, self.slab.layers[layer]
        queries, keys, _ = new.rotated_heads(start)
        slab.write(self._slot.index, start, self.slab.layout.planes(keys, None))
        location = KVLocation(self._slot.index, start, start + new.length)
        return new.like_queries(attend_to_keys(self.slab, slab.planes, queries, location, options))

    def _slide_with_kernels(self, layer: int, new: QKV, options: AttentionOptions) -> mx.array:
        """Attend past the ring's end, with several new tokens, to a copy of the keys in order.

        The kernel rotates, as in every other pass: in MLX's operations the last bit may be another.
        """
        kernels, slab, start = self.slab.kernels, self.slab.layers[layer], self._slot.length
        assert kernels is not None  # asked where the kernels attend
        assert slab.window is not None  # nothing else has an end
        assert new.values is not None  # those in keys have a call of their own
        slab.make(self.slab.layout.planes(*new.heads_of_keys_and_values()))
        first = max(0, start - slab.window)
        space = [kernels.empty((1, p.shape[1], new.length, p.shape[3]), p.dtype) for p in slab.planes]
        if start:
            past = zip(slab.tokens(self._slot.index, first, start), space, strict=True)
            space = [mx.concatenate([*pair], axis=2) for pair in past]
        attended, seen = attend_cached(
            kernels,
            new.queries,
            space,
            (new.keys, new.values),
            KVLocation(0, start - first, start - first + new.length),
            replace(options, window=slab.window),
            new.rotation_at(start),
            self.slab.layout.bits,
        )
        slab.write_tokens(self._slot.index, start, [plane[:, :, start - first :] for plane in seen])
        self._seen[layer] = first, seen
        return attended

    def _append(self, layer: int, planes: Planes) -> tuple[Planes, int | None]:
        """Store new planes; returns the planes that the row sees, and the window where it does not see all of them."""
        slab, start, length = self.slab.layers[layer], self._slot.length, planes[0].shape[2]
        end, window = start + length, slab.window
        if window is None or end <= window:
            slab.write(self._slot.index, start, planes)
            return slab.read(self._slot.index, 0, end), None
        if length == 1:
            # To one new token the ring's order does not matter: positions are in the keys.
            slab.write(self._slot.index, start % window, planes)
            return slab.read(self._slot.index, 0, window), None
        seen = self._slide(slab, planes, window)
        self._seen[layer] = max(0, start - window), seen
        return seen, window

    def _slide(self, slab: LayerSlab, planes: Planes, window: int) -> Planes:
        """Store several tokens past the ring's end; returns them in order behind the earlier ones."""
        start = self._slot.length
        past = slab.tokens(self._slot.index, max(0, start - window), start) if start else []
        pairs = zip(past, planes, strict=True)
        seen = [mx.concatenate([*pair], axis=2) for pair in pairs] if past else planes
        slab.write_tokens(self._slot.index, start, planes)
        return seen


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
        slab = self.slab.layers[layer]
        slab.write_each(self._slots, self._starts_in(slab), self.slab.layout.planes(keys, values))
        return new.like_queries(self._attend_masked(slab, queries, options, bias))

    def attend_with_kernels(self, layer: int, new: QKV, options: AttentionOptions) -> mx.array:
        """Store new keys and values, and attend to what each row sees, in one call of a kernel."""
        slab = self.slab.layers[layer]
        location = KVLocation(self._slots, self._starts_in(slab), self._counts_in(slab))
        if options.value_dim is not None:
            queries, keys, _ = new.rotated_heads(self._offsets)
            slab.write_each(self._slots, self._starts_in(slab), self.slab.layout.planes(keys, None))
            return new.like_queries(attend_to_keys(self.slab, slab.planes, queries, location, options))
        return store_and_attend(self.slab, layer, new, location, options, self._offsets)

    def attend_stored(self, layer: int, new: Queries, options: AttentionOptions) -> mx.array:
        """Attend to the keys of a layer that has attended in this pass; nothing is stored."""
        slab = self.slab.layers[layer]
        if self.slab.kernels_attend:
            location = KVLocation(self._slots, 0, self._counts_in(slab))
            return attend_to_planes(self.slab, slab.planes, new, location, options, self._offsets)
        return new.like_queries(self._attend_masked(slab, new.rotated_queries(self._offsets), options))

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

    def _attend_masked(
        self, slab: LayerSlab, queries: mx.array, options: AttentionOptions, bias: mx.array | None = None
    ) -> mx.array:
        """Attend to the slab as it lies, in MLX's operations."""
        layout, mask = self.slab.layout, self._mask(slab.window, slab.places)
        planes = layout.with_values([plane[:, :, : mask.shape[-1]] for plane in slab.planes], options.value_dim)
        options = replace(options, causal=False, mask=mask if bias is None else with_bias(mask, bias))
        return self._by_row(attend(self._by_slot(queries), *layout.keys_and_values(planes), options))

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
            spec = self.slab.spec
            self._counts[slab.window] = mx.array([spec.num_seen(slab.window, length) for length in self._lengths])
        return self._counts[slab.window]

    def _mask(self, window: int | None, num_entries: int) -> mx.array:
        """The entries that each slot's new token sees: bool (num_slots, 1, 1, entries read)."""
        if window not in self._masks:
            counts = [self.slab.spec.num_seen(window, length) for length in self._lengths]
            read = min(num_entries, -(-max(counts) // _READ_STEP) * _READ_STEP)
            self._masks[window] = _up_to(self._spread(counts), read)
        return self._masks[window]


def _up_to(counts: list[int], num_entries: int) -> mx.array:
    return mx.arange(num_entries) < mx.array(counts)[:, None, None, None]
