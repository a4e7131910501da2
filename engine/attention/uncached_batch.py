"""A batch of whole texts that are read once, from their first token on: no keys or values are kept."""

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from engine.attention.attend import AttentionOptions, attend, causal_mask
from engine.attention.batch import Batch, Biases
from engine.attention.qkv import QKV, Queries, Rotation
from engine.attention.views import PositionBias
from engine.cache.layout import Dense
from engine.cache.spec import CacheSpec


class UncachedBatch(Batch):
    """Texts padded on the right to one length, read in a single pass. Padding follows the text, so nobody sees it.

    spec: the kinds of state that the model's layers would keep
    lengths: tokens of each text
    both_ways: every token sees the later ones too, as in EmbeddingGemma; padding is masked then
    """

    def __init__(self, spec: CacheSpec, lengths: Sequence[int], *, both_ways: bool = False) -> None:
        self._windows = spec.windows
        self._chunked = spec.chunked
        self._read_again = frozenset(spec.readers)
        self._stored: dict[int, tuple[mx.array, mx.array]] = {}
        self._both_ways = both_ways
        self._masks: dict[int | None, mx.array | None] = {}
        self._lengths = lengths
        self.offsets = 0
        self.planned_lengths = list(lengths)

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
        """Attend to the new keys and values alone. See Batch.attend; biases are not taken."""
        new = QKV(queries, head_dim, rotation, keys, values)
        queries, keys, values = new.rotated_heads(0)
        keys, values = Dense().with_values(Dense().planes(keys, values), options.value_dim)
        if layer in self._read_again:
            self._stored[layer] = keys, values
        return new.like_queries(attend(queries, keys, values, self._seeing(layer, new.length, options)))

    def attend_stored(
        self,
        layer: int,
        queries: mx.array,
        options: AttentionOptions,
        *,
        head_dim: int | None = None,
        rotation: Rotation | None = None,
    ) -> mx.array:
        """Attend to the keys and values of a layer that has attended. See Batch.attend_stored."""
        new = Queries(queries, head_dim, rotation)
        options = self._seeing(layer, new.length, options)
        return new.like_queries(attend(new.rotated_queries(0), *self._stored[layer], options))

    def biases(self, of_positions: PositionBias, length: int) -> Biases:
        """Position biases belong to encoder-decoders, which have caches."""
        raise NotImplementedError

    def advance(self, length: int) -> None:
        """Nothing is counted: there is no next pass."""

    def _seeing(self, layer: int, length: int, options: AttentionOptions) -> AttentionOptions:
        """The options of a layer with its mask."""
        window = self._windows[layer]
        if window not in self._masks:
            self._masks[window] = self._mask(length, window)
        return replace(options, causal=not self._both_ways, mask=self._masks[window])

    def _chunks(self, length: int, window: int) -> mx.array:
        chunk = mx.arange(length) // window
        return causal_mask(length, length) & (chunk[:, None] == chunk)

    def _mask(self, length: int, window: int | None) -> mx.array | None:
        """The keys that every token sees; None where causal attention says it."""
        if not self._both_ways:
            if window is None or window >= length:
                return None
            return self._chunks(length, window) if self._chunked else causal_mask(length, length, window)
        visible = mx.arange(length) < mx.array(list(self._lengths))[:, None, None, None]
        if window is None:
            return visible
        positions = mx.arange(length)
        return visible & (mx.abs(positions[:, None] - positions) < window)
