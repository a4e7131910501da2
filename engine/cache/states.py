"""States of fixed size that layers keep per sequence: recurrent matrices and tails of convolutions.

A state is what a layer remembers of all tokens so far; unlike keys and values it cannot be cut back to fewer tokens.
Knows slots and arrays; knows nothing of tokens.
"""

from collections.abc import Sequence

import mlx.core as mx

from engine.cache.layout import Content


class LayerState:
    """One layer's arrays, (num_slots, ...) each; made when the first state arrives.

    A slot holds what its last sequence left until a new one writes: a sequence that begins reads nothing.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.arrays: list[mx.array] = []

    def read(self, slots: Sequence[int]) -> list[mx.array]:
        """The states of these slots, (len(slots), ...) each."""
        if self._are_all(slots):
            return list(self.arrays)
        if len(slots) == 1:
            return [array[slots[0] : slots[0] + 1] for array in self.arrays]
        chosen = mx.array([*slots])
        return [array[chosen] for array in self.arrays]

    def write(self, slots: Sequence[int], states: Sequence[mx.array]) -> None:
        """Store the states of these slots. states: (len(slots), ...) each."""
        if self._are_all(slots):
            self.arrays = list(states)
            return
        if not self.arrays:
            self.arrays = [mx.zeros((self.num_slots, *state.shape[1:]), state.dtype) for state in states]
        for own, new in zip(self.arrays, states, strict=True):
            if len(slots) == 1:
                own[slots[0] : slots[0] + 1] = new
            else:
                own[mx.array([*slots])] = new

    def with_slots(self, slots: mx.array) -> None:
        """Take these slots, in this order, as the new ones; numbers may repeat."""
        self.num_slots = slots.size
        self.arrays = [array[slots] for array in self.arrays]

    def add_slots(self, num_slots: int) -> None:
        """Have this many slots from now on; those in use keep their numbers."""
        more = num_slots - self.num_slots
        self.num_slots = num_slots
        self.arrays = [
            mx.concatenate([array, mx.zeros((more, *array.shape[1:]), array.dtype)]) for array in self.arrays
        ]

    def _are_all(self, slots: Sequence[int]) -> bool:
        return list(slots) == list(range(self.num_slots))


def pack_states(states: Sequence[Sequence[mx.array]]) -> Content:
    """One sequence's states of all layers as a snapshot. states: per layer its arrays, (1, ...) each."""
    kinds: dict[tuple[tuple[int, ...], mx.Dtype], int] = {}
    arrays = [array for layer in states for array in layer]
    order = [kinds.setdefault((array.shape, array.dtype), len(kinds)) for array in arrays]
    members = [
        [array for array, kind in zip(arrays, order, strict=True) if kind == number] for number in kinds.values()
    ]
    return Content(tuple(mx.concatenate(same) for same in members), tuple(order))


def unpack_states(content: Content, num_layers: int) -> list[list[mx.array]]:
    """Per layer its arrays, (1, ...) each, of a snapshot."""
    taken = [0] * len(content.stacks)
    arrays = []
    for kind in content.order:
        arrays.append(content.stacks[kind][taken[kind] : taken[kind] + 1])
        taken[kind] += 1
    per_layer = len(arrays) // num_layers
    return [arrays[layer * per_layer : (layer + 1) * per_layer] for layer in range(num_layers)]
