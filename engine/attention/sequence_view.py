"""A row that attends by itself, with one new token or many. Knows its slot; knows nothing of other rows."""

from dataclasses import replace

import mlx.core as mx

from engine.attention.attend import attend, with_bias
from engine.attention.attend_cached import KVLocation, attend_cached
from engine.attention.options import AttentionOptions
from engine.attention.projections import QKV
from engine.attention.view import PositionBias, store_and_attend
from engine.cache.layout import Planes
from engine.cache.slab import LayerSlab
from engine.cache.slots import Slot


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
        queries, keys, values = new.rotated_heads(self._slot.length)
        layout = self.slab.layout
        planes, window = self._append(layer, layout.planes(keys, values))
        options = replace(options, causal=new.length > 1, window=window)
        if bias is not None:
            options = replace(options, mask=with_bias("causal" if options.causal else None, bias))
        return new.like_queries(attend(queries, *layout.keys_and_values(planes), options))

    def attend_with_kernels(self, layer: int, new: QKV, options: AttentionOptions) -> mx.array:
        """Store new keys and values, and attend to what the row sees, in one call of a kernel."""
        window, start = self.slab.layers[layer].window, self._slot.length
        end = start + new.length
        if window is None or end <= window:
            location = KVLocation(self._slot.index, start, end)
        elif new.length == 1:
            location = KVLocation(self._slot.index, start % window, window)
        else:
            return self._slide_with_kernels(layer, new, options)
        return store_and_attend(self.slab, layer, new, location, options, start)

    def attend_source(self, layer: int, queries: mx.array, scale: float) -> mx.array:
        """Attend to the row's source."""
        planes = self.slab.sources[layer].read(self._slot.index, 0, self._slot.source_length)
        return attend(queries, *self.slab.layout.keys_and_values(planes), AttentionOptions(scale, causal=False))

    def bias(self, of_positions: PositionBias, length: int) -> mx.array:
        """Position biases between the new tokens and all that the row sees."""
        return of_positions(self._slot.length, length, self._slot.length + length)

    def _slide_with_kernels(self, layer: int, new: QKV, options: AttentionOptions) -> mx.array:
        """Attend past the ring's end, with several new tokens, to a copy of the keys in order."""
        assert self.slab.kernels is not None  # asked where the kernels attend
        queries, keys, values = new.rotated_heads(self._slot.length)
        layout = self.slab.layout
        seen, window = self._append(layer, layout.planes(keys, values))
        location, options = KVLocation(0, 0, seen[0].shape[2]), replace(options, window=window)
        attended, _ = attend_cached(self.slab.kernels, queries, seen, (), location, options, bits=layout.bits)
        return new.like_queries(attended)

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
