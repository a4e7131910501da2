"""A batch of whole texts that are read once, from their first token on: no keys or values are kept."""

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from engine.attention.attend import AttentionOptions, attend, causal_mask
from engine.attention.batch import Batch, Biases
from engine.attention.qkv import QKV, Rotation
from engine.attention.views import PositionBias
from engine.cache.layout import Dense


class UncachedBatch(Batch):
    """Texts padded on the right to one length, read in a single pass. Padding follows the text, so nobody sees it.

    windows: per layer the number of tokens it sees, or None for all
    lengths: tokens of each text
    both_ways: every token sees the later ones too, as in EmbeddingGemma; padding is masked then
    """

    def __init__(self, windows: Sequence[int | None], lengths: Sequence[int], *, both_ways: bool = False) -> None:
        self._windows = windows
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
        new = QKV(queries, keys, values, head_dim, rotation)
        window = self._windows[layer]
        if window not in self._masks:
            self._masks[window] = self._mask(new.length, window)
        options = replace(options, causal=not self._both_ways, mask=self._masks[window])
        queries, keys, values = new.rotated_heads(0)
        keys, values = Dense().with_values(Dense().planes(keys, values), options.value_dim)
        return new.like_queries(attend(queries, keys, values, options))

    def biases(self, of_positions: PositionBias, length: int) -> Biases:
        """Position biases belong to encoder-decoders, which have caches."""
        raise NotImplementedError

    def advance(self, length: int) -> None:
        """Nothing is counted: there is no next pass."""

    def _mask(self, length: int, window: int | None) -> mx.array | None:
        """The keys that every token sees; None where causal attention says it."""
        if not self._both_ways:
            return None if window is None or window >= length else causal_mask(length, length, window)
        visible = mx.arange(length) < mx.array(list(self._lengths))[:, None, None, None]
        if window is None:
            return visible
        positions = mx.arange(length)
        return visible & (mx.abs(positions[:, None] - positions) < window)
