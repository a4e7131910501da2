"""The sequences of one forward pass, and how each layer of it reaches their keys and values.

Knows slots and arrays; knows nothing of tokens, sampling or scheduling.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import Protocol

import mlx.core as mx

from engine.attention.attend import Mask, attend, causal_mask, with_bias
from engine.attention.attend_rows import KVLocation, Rotation, Scoring, attend_rows
from engine.cache.layout import Dense, Planes
from engine.cache.slab import Heads, LayerSlab, Slab, join, split
from engine.cache.slots import Slot

Biases = list[mx.array]
_READ_STEP = 32  # what is read of a slab grows in such steps, so that shapes repeat from token to token


class Group(Protocol):
    """Rows of a pass that attend together.

    slab: where all of them have their slots; indices: which
    """

    size: int
    slab: Slab
    indices: list[int]

    @property
    def offsets(self) -> int | mx.array:
        """Position of each row's first new token."""

    def attend_natively(
        self, layer: int, tokens: Heads, scoring: Scoring, head_dim: int | None, turn: Rotation | None
    ) -> mx.array:
        """The same as `attend` in one call of a kernel. tokens: queries, keys and values."""

    def attend(
        self,
        layer: int,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        sinks: mx.array | None,
        softcap: float | None,
        bias: mx.array | None,
    ) -> mx.array:
        """Store new keys and values, and attend to what each row sees."""

    def attend_source(self, layer: int, queries: mx.array, scale: float) -> mx.array:
        """Attend to each row's source."""

    def bias(self, biases: Callable[[int | mx.array, int, int], mx.array], length: int) -> mx.array:
        """Position biases between the new tokens and all that these rows see."""


class Rows:
    """The sequences of one forward pass, one row each, all with the same number of new tokens.

    Rows of one slab that stand together attend together; they may have one new token each. A row that stands alone may
    have several.

    offsets: position of each row's first new token: an int for a single row, else (rows,) int32
    planned_lengths: tokens each row may reach
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._groups = [_group(list(same)) for _, same in groupby(slots, key=lambda slot: id(slot.slab))]
        self.planned_lengths = [slot.planned_length for slot in slots]
        self.offsets: int | mx.array = slots[0].length if len(slots) == 1 else mx.array([each.length for each in slots])

    def attend(
        self,
        layer: int,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        *,
        head_dim: int | None = None,
        turn: Rotation | None = None,
        sinks: mx.array | None = None,
        softcap: float | None = None,
        biases: Biases | None = None,
    ) -> mx.array:
        """Store the new keys and values, and attend to what each row sees in this layer.

        queries: (rows, num_heads, length, head_dim); keys, values: (rows, num_kv_heads, length, head_dim)
        head_dim: given where heads come side by side instead: (rows, length, num_heads * head_dim) and so on
        turn: rotates queries and keys by their positions
        biases: what `biases` returned, addends to the scores
        Returns the shape of queries. See engine.layers.attend for the rest.
        """
        attended = []
        for number, (group, part) in enumerate(self._parts()):
            own = (queries[part], keys[part], values[part]) if len(self._groups) > 1 else (queries, keys, values)
            bias = None if biases is None else biases[number]
            if group.slab.kernels is not None and bias is None and isinstance(group.slab.layout, Dense):
                scoring = Scoring(scale, softcap=softcap, sinks=sinks)
                attended.append(group.attend_natively(layer, own, scoring, head_dim, turn))
            else:
                attended.append(_by_head(group, layer, own, scale, head_dim, turn, sinks, softcap, bias))
        return attended[0] if len(attended) == 1 else mx.concatenate(attended, axis=0)

    def attend_source(self, layer: int, queries: mx.array, scale: float) -> mx.array:
        """Attend to all of each row's source. queries: (rows, num_heads, length, head_dim); returns the same shape."""
        attended = [group.attend_source(layer, queries[part], scale) for group, part in self._parts()]
        return attended[0] if len(attended) == 1 else mx.concatenate(attended, axis=0)

    def biases(self, of_positions: Callable[[int | mx.array, int, int], mx.array], length: int) -> Biases:
        """Biases that depend on positions alone, made once for all layers.

        of_positions: given the first query's position (or (rows,) of them), the number of queries and the number of
            keys, returns (1 or rows, num_heads, queries, keys)
        length: new tokens per row
        """
        return [group.bias(of_positions, length) for group in self._groups]

    def state(self, layer: int) -> list[mx.array] | None:
        """Each row's state in a layer that keeps one, (rows, ...) per array; None before the first token."""
        if len(self._slots) == 1 and self._slots[0].length == 0:
            return None
        found = [each.slab.states[layer].read(each.indices) for each in self._groups]
        return found[0] if len(found) == 1 else [mx.concatenate([*same]) for same in zip(*found, strict=True)]

    def keep_state(self, layer: int, state: Sequence[mx.array]) -> None:
        """Store each row's state behind the new tokens. state: (rows, ...) per array."""
        for group, part in self._parts():
            group.slab.states[layer].write(group.indices, [array[part] for array in state])

    def advance(self, length: int) -> None:
        """Count `length` new tokens in every row, once all layers have stored them."""
        for slot in self._slots:
            slot.length += length

    def tokens(self, start: int, end: int) -> Planes:
        """Planes of tokens that a single row has stored or seen in this pass, layer by layer, as Slot.tokens does."""
        (row,) = self._groups
        assert isinstance(row, OneRow)  # several rows have one new token each, and their rings still hold it
        return row.tokens(start, end)

    def _parts(self) -> Iterator[tuple[Group, slice]]:
        start = 0
        for group in self._groups:
            yield group, slice(start, start + group.size)
            start += group.size


class OneRow:
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
        for number, layer in enumerate(self._slot.slab.layers):
            if number in self._seen:
                first, planes = self._seen[number]
                found += [plane[:, :, start - first : end - first] for plane in planes]
            else:
                found += layer.tokens(self._slot.index, start, end)
        return found

    def attend(
        self,
        layer: int,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        sinks: mx.array | None,
        softcap: float | None,
        bias: mx.array | None,
    ) -> mx.array:
        """Store new keys and values, and attend to what the row sees."""
        layout = self._slot.slab.layout
        planes, mask = self._append(layer, layout.planes(keys, values))
        seen_keys, seen_values = layout.keys_and_values(planes)
        mask = mask if bias is None else with_bias(mask, bias)
        return attend(queries, seen_keys, seen_values, scale, mask, sinks=sinks, softcap=softcap)

    @property
    def offsets(self) -> int:
        """Position of the first new token."""
        return self._slot.length

    def attend_natively(
        self, layer: int, tokens: Heads, scoring: Scoring, head_dim: int | None, turn: Rotation | None
    ) -> mx.array:
        """The same as `attend` in one call of a kernel. tokens: queries, keys and values."""
        slab, slot, start = self.slab.layers[layer], self._slot, self._slot.length
        length = tokens[0].shape[-2]
        end, window = start + length, slab.window
        if window is not None and end > window:
            if length > 1:
                return self._slide_natively(slab, layer, tokens, scoring, head_dim, turn)
            return slab.attend(tokens, KVLocation(slot.index, start % window, window), scoring, head_dim, turn, start)
        return slab.attend(tokens, KVLocation(slot.index, start, end), scoring, head_dim, turn, start)

    def _slide_natively(
        self,
        slab: LayerSlab,
        layer: int,
        tokens: Heads,
        scoring: Scoring,
        head_dim: int | None,
        turn: Rotation | None,
    ) -> mx.array:
        """Past the ring's end, with several new tokens: they attend to what is in order beside them."""
        queries, keys, values = (split(each, head_dim) for each in tokens)
        if turn is not None:
            turn = replace(turn, offsets=self._slot.length)
            queries, keys = turn.apply(queries), turn.apply(keys)
        seen, _ = self._append(layer, [keys, values])
        scoring = replace(scoring, window=slab.window)
        location = KVLocation(0, 0, seen[0].shape[2])
        attended, _ = attend_rows(slab.kernels, queries, seen, (), location, scoring)
        return attended if head_dim is None else join(attended)

    def attend_source(self, layer: int, queries: mx.array, scale: float) -> mx.array:
        """Attend to the row's source."""
        slot = self._slot
        planes = slot.slab.sources[layer].read(slot.index, 0, slot.source_length)
        return attend(queries, *slot.slab.layout.keys_and_values(planes), scale)

    def bias(self, biases: Callable[[int | mx.array, int, int], mx.array], length: int) -> mx.array:
        """Position biases between the new tokens and all that the row sees."""
        return biases(self._slot.length, length, self._slot.length + length)

    def _append(self, layer: int, planes: Planes) -> tuple[Planes, Mask]:
        slab, start, length = self._slot.slab.layers[layer], self._slot.length, planes[0].shape[2]
        end, window = start + length, slab.window
        if window is not None and end > window:
            seen, mask = self._slide(slab, planes, window)
            if length > 1:
                self._seen[layer] = max(0, start - window), seen
            return seen, mask
        slab.write(self._slot.index, start, planes)
        return slab.read(self._slot.index, 0, end), "causal" if length > 1 else None

    def _slide(self, slab: LayerSlab, planes: Planes, window: int) -> tuple[Planes, Mask]:
        """Past the ring's end. To one new token the ring's order does not matter: positions are in the keys."""
        start, length = self._slot.length, planes[0].shape[2]
        if length == 1:
            slab.write(self._slot.index, start % window, planes)
            return slab.read(self._slot.index, 0, window), None
        past = slab.tokens(self._slot.index, max(0, start - window), start) if start else []
        pairs = zip(past, planes, strict=True)
        seen = [mx.concatenate([*pair], axis=2) for pair in pairs] if past else planes
        slab.write_tokens(self._slot.index, start, planes)
        return seen, causal_mask(length, seen[0].shape[2], window)


class ManyRows:
    """Rows of one slab, with one new token each.

    The slab is read as it lies, up to the longest row: a slot that has no row in this pass computes what nobody reads.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.size = len(slots)
        self.slab = slots[0].slab
        self.indices = [slot.index for slot in slots]
        self._lengths = [slot.length for slot in slots]
        self._source_lengths = [slot.source_length for slot in slots]
        self._places: dict[int | None, mx.array] = {}
        self._counts: dict[int | None, mx.array] = {}
        self._masks: dict[int | None, mx.array] = {}

    def attend(
        self,
        layer: int,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        sinks: mx.array | None,
        softcap: float | None,
        bias: mx.array | None,
    ) -> mx.array:
        """Store new keys and values, and attend to what each row sees."""
        layout, slab = self.slab.layout, self.slab.layers[layer]
        slab.write_each(self._slots, self._places_in(slab), layout.planes(keys, values))
        mask = self._mask(slab.window, slab.places)
        seen = layout.keys_and_values([plane[:, :, : mask.shape[-1]] for plane in slab.planes])
        mask = mask if bias is None else with_bias(mask, bias)
        return self._by_row(attend(self._by_slot(queries), *seen, scale, mask, sinks=sinks, softcap=softcap))

    @property
    def offsets(self) -> mx.array:
        """Position of each row's new token."""
        return self._offsets

    def attend_natively(
        self, layer: int, tokens: Heads, scoring: Scoring, head_dim: int | None, turn: Rotation | None
    ) -> mx.array:
        """The same as `attend` in one call of a kernel. tokens: queries, keys and values."""
        slab = self.slab.layers[layer]
        location = KVLocation(self._slots, self._places_in(slab), self._counts_in(slab))
        return slab.attend(tokens, location, scoring, head_dim, turn, self._offsets)

    def attend_source(self, layer: int, queries: mx.array, scale: float) -> mx.array:
        """Attend to each row's source."""
        longest = max(self._source_lengths)
        planes = [plane[:, :, :longest] for plane in self.slab.sources[layer].planes]
        mask = _up_to(self._spread(self._source_lengths), longest)
        attended = attend(self._by_slot(queries), *self.slab.layout.keys_and_values(planes), scale, mask)
        return self._by_row(attended)

    def bias(self, biases: Callable[[int | mx.array, int, int], mx.array], length: int) -> mx.array:
        """Position biases between the new tokens and all that the rows see."""
        context = self._mask(None, self.slab.capacity).shape[-1]
        return biases(mx.array(self._spread(self._lengths)), length, context)

    @cached_property
    def _offsets(self) -> mx.array:
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

    def _places_in(self, slab: LayerSlab) -> mx.array:
        if slab.window not in self._places:
            places = self._lengths if slab.window is None else [each % slab.window for each in self._lengths]
            self._places[slab.window] = mx.array(places)
        return self._places[slab.window]

    def _counts_in(self, slab: LayerSlab) -> mx.array:
        """How many places each row sees."""
        if slab.window not in self._counts:
            most = self.slab.capacity if slab.window is None else slab.window
            self._counts[slab.window] = mx.array([min(length + 1, most) for length in self._lengths])
        return self._counts[slab.window]

    def _mask(self, window: int | None, places: int) -> mx.array:
        """Which places each slot's new token sees: bool (num_slots, 1, 1, places read)."""
        if window not in self._masks:
            counts = [length + 1 for length in self._lengths]
            counts = counts if window is None else [min(count, window) for count in counts]
            read = min(places, -(-max(counts) // _READ_STEP) * _READ_STEP)
            self._masks[window] = _up_to(self._spread(counts), read)
        return self._masks[window]


def _by_head(
    group: Group,
    layer: int,
    tokens: Heads,
    scale: float,
    head_dim: int | None,
    turn: Rotation | None,
    sinks: mx.array | None,
    softcap: float | None,
    bias: mx.array | None,
) -> mx.array:
    """Attend with MLX's own operations, which want each head apart."""
    queries, keys, values = (split(each, head_dim) for each in tokens)
    if turn is not None:
        turn = replace(turn, offsets=group.offsets)
        queries, keys = turn.apply(queries), turn.apply(keys)
    attended = group.attend(layer, queries, keys, values, scale, sinks, softcap, bias)
    return attended if head_dim is None else join(attended)


def _group(slots: list[Slot]) -> Group:
    return OneRow(slots[0]) if len(slots) == 1 else ManyRows(slots)


def _up_to(counts: list[int], places: int) -> mx.array:
    return mx.arange(places) < mx.array(counts)[:, None, None, None]
