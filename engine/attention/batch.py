"""The sequences of one forward pass, and how each layer of it reaches their keys and values.

Knows slots and arrays; knows nothing of tokens, sampling or scheduling.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import mlx.core as mx

from engine.attention.attend import AttentionOptions
from engine.attention.qkv import QKV, Queries, Rotation
from engine.attention.views import BatchView, PositionBias, SequenceView, SlabView
from engine.cache.layout import Planes
from engine.cache.slots import Slot

Biases = list[mx.array]


class Batch:
    """The sequences of one forward pass, one row each, all with the same number of new tokens.

    Rows of one slab that stand together attend together; they may have one new token each. A row that stands alone may
    have several.

    offsets: position of each row's first new token: an int for a single row, else (rows,) int32
    planned_lengths: tokens that each row's rotation is chosen by, where it depends on the length
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._views = [_view(list(same)) for _, same in groupby(slots, key=lambda slot: id(slot.slab))]
        self.planned_lengths = [max(slot.planned_length, slot.length + 1) for slot in slots]
        self.offsets: int | mx.array = slots[0].length if len(slots) == 1 else mx.array([each.length for each in slots])

    def attend(
        self,
        layer: int,
        queries: mx.array,
        keys: mx.array,
        values: mx.array | None,
        options: AttentionOptions,
        *,
        head_dim: int | None = None,
        rotation: Rotation | None = None,
        biases: Biases | None = None,
    ) -> mx.array:
        """Store the new keys and values, and attend to the keys that each row sees in this layer.

        queries: (rows, num_heads, length, head_dim); keys, values: (rows, num_kv_heads, length, head_dim)
        values: None where options.value_dim says that the keys contain them
        options: scale, softcap and sinks; the batch knows the rest
        head_dim: given where heads come side by side instead: (rows, length, num_heads * head_dim) and so on
        rotation: of queries and keys, by their positions
        biases: the list that `biases` returned, addends to the scores
        Returns the shape of queries.
        """
        new = QKV(queries, head_dim, rotation, keys, values)
        attended = []
        for number, (view, rows) in enumerate(self._parts()):
            own = new.of_rows(rows) if len(self._views) > 1 else new
            if biases is not None:
                attended.append(view.attend(layer, own, options, biases[number]))
            elif view.slab.kernels_attend:
                attended.append(view.attend_with_kernels(layer, own, options))
            else:
                attended.append(view.attend(layer, own, options))
        return _joined(attended)

    def attend_stored(
        self,
        layer: int,
        queries: mx.array,
        options: AttentionOptions,
        *,
        head_dim: int | None = None,
        rotation: Rotation | None = None,
    ) -> mx.array:
        """Attend to the keys that each row sees in a layer that has attended in this pass; nothing is stored.

        The layer's keys are rotated already; otherwise as attend. CacheSpec names such layers.
        """
        new = Queries(queries, head_dim, rotation)
        return _joined([view.attend_stored(layer, new.of_rows(rows), options) for view, rows in self._parts()])

    def attend_source(self, layer: int, queries: mx.array, scale: float) -> mx.array:
        """Attend to all of each row's source. queries: (rows, num_heads, length, head_dim); returns the same shape."""
        return _joined([view.attend_source(layer, queries[rows], scale) for view, rows in self._parts()])

    def biases(self, of_positions: PositionBias, length: int) -> Biases:
        """Biases that depend on positions alone, made once for all layers. length: new tokens per row."""
        return [view.bias(of_positions, length) for view in self._views]

    def state(self, layer: int) -> list[mx.array] | None:
        """Each row's state in a layer that keeps one, (rows, ...) per array; None before the first token."""
        if len(self._slots) == 1 and self._slots[0].length == 0:
            return None
        found = [view.slab.states[layer].read(view.indices) for view in self._views]
        return [_joined(list(same)) for same in zip(*found, strict=True)]

    def keep_state(self, layer: int, state: Sequence[mx.array]) -> None:
        """Store each row's state behind the new tokens. state: (rows, ...) per array."""
        for view, rows in self._parts():
            view.slab.states[layer].write(view.indices, [array[rows] for array in state])

    def advance(self, length: int) -> None:
        """Count `length` new tokens in every row, once all layers have stored them."""
        for slot in self._slots:
            slot.length += length

    def tokens(self, start: int, end: int) -> Planes:
        """Planes of tokens that a single row has stored or seen in this pass, layer by layer, as Slot.tokens does."""
        (row,) = self._views
        assert isinstance(row, SequenceView)  # several rows have one new token each, and their rings still hold it
        return row.tokens(start, end)

    def _parts(self) -> Iterator[tuple[BatchView, slice]]:
        start = 0
        for view in self._views:
            yield view, slice(start, start + view.size)
            start += view.size


def _view(slots: list[Slot]) -> BatchView:
    return SequenceView(slots[0]) if len(slots) == 1 else SlabView(slots)


def _joined(attended: list[mx.array]) -> mx.array:
    return attended[0] if len(attended) == 1 else mx.concatenate(attended, axis=0)
