"""The slots of sequences in slabs of keys and values. Slabs of equal capacity are one, so that rows attend together."""

from collections.abc import Sequence

import mlx.core as mx

from engine.cache.content import Content
from engine.cache.kv_budget import KVBudget, capacity_for
from engine.cache.layout import Layout, Planes
from engine.cache.slab import Slab
from engine.cache.spec import CacheSpec
from engine.cache.states import pack_states, unpack_states
from engine.native.kernels import Kernels


class Slot:
    """A sequence's place in a slab.

    length: tokens stored, counting those of a pass that is on its way
    planned_length: tokens the sequence may reach; source_length: tokens of its source
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
