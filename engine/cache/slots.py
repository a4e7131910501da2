"""Keys and values of several sequences in shared arrays, one slot each. Knows places, nothing of rows or schedules.

A slab has room for `capacity` tokens per slot. A layer that sees everything has a place per token; a layer with a
sliding window has a ring of `window` places at most (arXiv:2310.06825), where token t is at place t modulo window.
"""

from collections.abc import Sequence

import mlx.core as mx

from engine.cache.kv_budget import KVBudget, capacity_for
from engine.cache.layout import Content, Layout, Planes
from engine.cache.spec import CacheSpec
from engine.cache.states import LayerState, pack_states, unpack_states
from engine.native.kernels import Kernels

_KERNEL_BITS = (0, 8)  # floats, and integers of 8 bits


class LayerSlab:
    """One layer's planes, (num_slots, heads, places, width) each; made when the first tokens arrive.

    window: tokens this layer sees, or None for all
    kernels: the device's, or None
    reads_all: places without tokens may be read, if only to be masked
    """

    def __init__(
        self,
        num_slots: int,
        capacity: int,
        window: int | None,
        kernels: Kernels | None = None,
        *,
        reads_all: bool = True,
    ) -> None:
        self._reads_all = reads_all
        self.num_slots = num_slots
        self.window = window
        self.kernels = kernels
        self.places = capacity if window is None else min(capacity, window)
        self.planes: Planes = []

    def write_each(self, slots: mx.array, places: mx.array, planes: Planes) -> None:
        """Store one token per row. slots, places: (rows,); planes: (rows, heads, 1, width)."""
        self.make(planes)
        for own, new in zip(self.planes, planes, strict=True):
            own[slots, :, places] = new[:, :, 0]

    def write(self, slot: int, place: int, planes: Sequence[mx.array]) -> None:
        """Store tokens of one slot from a place on. planes: (1, heads, length, width)."""
        self.make(planes)
        for own, new in zip(self.planes, planes, strict=True):
            own[slot : slot + 1, :, place : place + new.shape[2]] = new

    def read(self, slot: int, start: int, end: int) -> Planes:
        """Places `start` to `end` of one slot: (1, heads, end - start, width)."""
        return [plane[slot : slot + 1, :, start:end] for plane in self.planes]

    def tokens(self, slot: int, start: int, end: int) -> Planes:
        """Tokens `start` to `end` in order of time; all of them must still be there."""
        if self.window is None or end <= self.window:
            return self.read(slot, start, end)
        first, last = start % self.window, (end - 1) % self.window + 1
        if first < last:
            return self.read(slot, first, last)
        halves = zip(self.read(slot, first, self.window), self.read(slot, 0, last), strict=True)
        return [mx.concatenate([*pair], axis=2) for pair in halves]

    def write_tokens(self, slot: int, start: int, planes: Sequence[mx.array]) -> None:
        """Store tokens from position `start` on; a ring keeps the newest. planes: (1, heads, length, width)."""
        end = start + planes[0].shape[2]
        if self.window is None or end <= self.window:
            self.write(slot, start, planes)
            return
        start = max(start, end - self.window)
        planes = [plane[:, :, -(end - start) :] for plane in planes]
        first = start % self.window
        before_wrap = min(self.window - first, end - start)
        self.write(slot, first, [plane[:, :, :before_wrap] for plane in planes])
        if before_wrap < end - start:
            self.write(slot, 0, [plane[:, :, before_wrap:] for plane in planes])

    def with_slots(self, slots: mx.array) -> None:
        """Take these slots, in this order, as the new ones; numbers may repeat."""
        self.num_slots = slots.size
        self.planes = [plane[slots] for plane in self.planes]

    def grown(self, num_slots: int, capacity: int) -> "LayerSlab":
        """A copy with more slots, or more places each."""
        copy = LayerSlab(num_slots, capacity, self.window, self.kernels, reads_all=self._reads_all)
        for plane in self.planes:
            larger = copy._plane((num_slots, plane.shape[1], copy.places, plane.shape[3]), plane.dtype)
            larger[: plane.shape[0], :, : plane.shape[2]] = plane
            copy.planes.append(larger)
        return copy

    def make(self, like: Sequence[mx.array]) -> None:
        """Have planes for tokens like these, (..., heads, any, width) each."""
        if not self.planes:
            shapes = [(self.num_slots, plane.shape[1], self.places, plane.shape[3]) for plane in like]
            self.planes = [self._plane(shape, plane.dtype) for shape, plane in zip(shapes, like, strict=True)]

    def _plane(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        # MLX's own operations read places that hold nothing yet, and mask them; the kernels stop before.
        return mx.zeros(shape, dtype) if self.kernels is None or self._reads_all else self.kernels.empty(shape, dtype)


class Slab:
    """All layers' keys and values of some sequences, and in encoder-decoder models those of their sources.

    capacity: tokens per slot; source_capacity: the same of the source, 0 where there is none
    spec: the kinds of state that the layers keep
    kernels: the device's, or None
    kernels_attend: they read and write this layout; else MLX's operations do
    """

    def __init__(
        self,
        num_slots: int,
        capacity: int,
        source_capacity: int,
        spec: CacheSpec,
        layout: Layout,
        kernels: Kernels | None = None,
    ) -> None:
        self.num_slots = num_slots
        self.capacity = capacity
        self.source_capacity = source_capacity
        self.spec = spec
        self.layout = layout
        self.kernels = kernels
        self.states = [LayerState(num_slots) for _ in range(spec.num_states)]
        self.kernels_attend = kernels is not None and layout.bits in _KERNEL_BITS
        # Position biases, which only models with a source have here, are added by MLX's operations.
        reads_all = source_capacity > 0 or not self.kernels_attend
        self.layers = [LayerSlab(num_slots, capacity, window, kernels, reads_all=reads_all) for window in spec.windows]
        self.sources = (
            [LayerSlab(num_slots, source_capacity, None, kernels) for _ in spec.windows] if source_capacity else []
        )

    @property
    def arrays(self) -> list[mx.array]:
        """All planes and states, for evaluation."""
        planes = [plane for layer in (*self.layers, *self.sources) for plane in layer.planes]
        return planes + [array for state in self.states for array in state.arrays]

    def write_blocks(self, slot: int, blocks: Sequence[mx.array], counts: Sequence[int]) -> None:
        """Store the first `counts[i]` tokens of each block in an empty slot, with the kernels.

        blocks: (planes, heads, tokens, width), the planes of all layers in order
        """
        per_layer = blocks[0].shape[0] // len(self.layers)
        for layer in self.layers:
            layer.make([blocks[0][:1]] * per_layer)
        assert self.kernels is not None  # asked where there are kernels
        planes = [plane for layer in self.layers for plane in layer.planes]
        for layer in self.layers:
            layer.planes = []
        written = self.kernels.write_blocks(planes, [*blocks], [*counts], slot, 0)
        for number, layer in enumerate(self.layers):
            layer.planes = written[number * per_layer : (number + 1) * per_layer]

    def add_slots(self, num_slots: int) -> None:
        """Have this many slots from now on; those in use keep their numbers."""
        self.num_slots = num_slots
        self.layers = [layer.grown(num_slots, self.capacity) for layer in self.layers]
        self.sources = [layer.grown(num_slots, self.source_capacity) for layer in self.sources]
        for state in self.states:
            state.add_slots(num_slots)

    def copied(self, slot: int, num_slots: int) -> "Slab":
        """A slab of its own in which every slot holds what this one's `slot` does."""
        copy = Slab(num_slots, self.capacity, self.source_capacity, self.spec, self.layout, self.kernels)
        chosen = mx.array([slot] * num_slots)
        for our_state, their_state in zip(self.states, copy.states, strict=True):
            their_state.arrays = [array[chosen] for array in our_state.arrays]
        for ours, theirs in zip((*self.layers, *self.sources), (*copy.layers, *copy.sources), strict=True):
            theirs.planes = [plane[chosen] for plane in ours.planes]
        return copy

    def reorder(self, slots: Sequence[int]) -> None:
        """Continue with the contents of these slots, in this order; a slot may be taken more than once.

        Sources are the same in all slots that are taken, and stay.
        """
        order = mx.array([*slots])
        for layer in self.layers:
            layer.with_slots(order)
        for state in self.states:
            state.with_slots(order)

    def move(self, slot: int, target: "Slab", target_slot: int, length: int) -> None:
        """Copy one sequence of `length` tokens into another slab."""
        for ours, theirs in zip(self.layers, target.layers, strict=True):
            stored = length if ours.window is None else min(length, ours.window)
            if ours.planes and stored:
                theirs.write(target_slot, 0, ours.read(slot, 0, stored))
        for ours, theirs in zip(self.sources, target.sources, strict=True):
            if ours.planes:
                theirs.write(target_slot, 0, ours.read(slot, 0, self.source_capacity))
        for our_state, their_state in zip(self.states, target.states, strict=True):
            if our_state.arrays and length:
                their_state.write([target_slot], our_state.read([slot]))


class Slot:
    """A sequence's place in a slab.

    length: tokens stored, counting those of a pass that is on its way
    planned_length: tokens that are prefilled with one rotation; source_length: tokens of its source
    """

    def __init__(self, slab: Slab, index: int, planned_length: int, source_length: int = 0) -> None:
        self.slab = slab
        self.index = index
        self.length = 0
        self.planned_length = planned_length
        self.source_length = source_length

    def tokens(self, start: int, end: int) -> Planes:
        """Planes of tokens `start` to `end`, layer by layer, (1, heads, tokens, width); rings must still hold them."""
        return [plane for layer in self.slab.layers for plane in layer.tokens(self.index, start, end)]

    def state(self) -> Content:
        """A snapshot of the states behind the tokens stored so far; empty where layers keep none."""
        return pack_states([state.read([self.index]) for state in self.slab.states])

    def restore_state(self, snapshot: Content) -> None:
        """Go on from a snapshot."""
        states = unpack_states(snapshot, len(self.slab.states))
        for own, arrays in zip(self.slab.states, states, strict=True):
            own.write([self.index], arrays)

    def of(self, slab: Slab, index: int) -> "Slot":
        """This slot's state, in a slot of another slab."""
        slot = Slot(slab, index, self.planned_length, self.source_length)
        slot.length = self.length
        return slot

    def store_source(self, pairs: Sequence[tuple[mx.array, mx.array]]) -> None:
        """Store the source's keys and values, a pair per layer, (1, num_heads, source_length, head_dim) each."""
        for layer, pair in zip(self.slab.sources, pairs, strict=True):
            layer.write(self.index, 0, self.slab.layout.planes(*pair))


class SlotPool:
    """Slots as they have been reserved. A leaving sequence copies nothing; a joining one may make its slab larger.

    kv_budget: says how many slots a slab has when it must grow
    kernels: the device's, or None
    """

    def __init__(self, spec: CacheSpec, layout: Layout, kv_budget: KVBudget, kernels: Kernels | None = None) -> None:
        self._spec = spec
        self._layout = layout
        self._kv_budget = kv_budget
        self._kernels = kernels
        self._slabs: dict[tuple[int, int], Slab] = {}
        self._free: dict[tuple[int, int], list[int]] = {}

    def take(self, held: tuple[int, int], planned_length: int, source_length: int = 0) -> Slot:
        """A slot of these capacities, its own and its source's."""
        slab, index = self._take(held)
        return Slot(slab, index, planned_length, source_length)

    def move(self, slot: Slot, held: tuple[int, int]) -> None:
        """Move a sequence to a slot of other capacities."""
        old_slab, old_index = slot.slab, slot.index
        slot.slab, slot.index = self._take(held)
        old_slab.move(old_index, slot.slab, slot.index, slot.length)
        self._give_back(old_slab, old_index)

    def release(self, slot: Slot) -> None:
        """Give a slot back. What it holds is overwritten, never read again."""
        self._give_back(slot.slab, slot.index)

    def clear(self) -> None:
        """Forget all slabs, whoever has slots in them."""
        self._slabs, self._free = {}, {}

    @property
    def arrays(self) -> list[mx.array]:
        """Everything stored, for evaluation."""
        return [array for slab in self._slabs.values() for array in slab.arrays]

    @property
    def num_used(self) -> int:
        """Slots in use."""
        return sum(slab.num_slots - len(self._free[key]) for key, slab in self._slabs.items())

    def _take(self, key: tuple[int, int]) -> tuple[Slab, int]:
        if key not in self._slabs:
            num_slots = max(1, self._kv_budget.num_slots(*key))
            self._slabs[key] = Slab(num_slots, *key, self._spec, self._layout, self._kernels)
            self._free[key] = list(range(num_slots))
        slab, free = self._slabs[key], self._free[key]
        if not free:
            num_slots = max(slab.num_slots + 1, self._kv_budget.num_slots(*key))
            free.extend(range(slab.num_slots, num_slots))
            slab.add_slots(num_slots)
        # The lowest number keeps the slots in use together, and with them what a pass has to read.
        free.sort(reverse=True)
        return slab, free.pop()

    def _give_back(self, slab: Slab, index: int) -> None:
        key = (slab.capacity, slab.source_capacity)
        if self._slabs.get(key) is not slab:
            return  # of slabs that are already forgotten
        self._free[key].append(index)
        if len(self._free[key]) == slab.num_slots:
            del self._slabs[key], self._free[key]


def lone_slot(
    spec: CacheSpec,
    layout: Layout,
    planned_length: int,
    source_length: int = 0,
    kernels: Kernels | None = None,
) -> Slot:
    """A slot in a slab of its own, large enough for all it may hold."""
    source_capacity = capacity_for(source_length) if source_length else 0
    slab = Slab(1, capacity_for(planned_length), source_capacity, spec, layout, kernels)
    return Slot(slab, 0, planned_length, source_length)
