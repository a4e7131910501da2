"""Rows of a decoder that only reads: whole texts from their first token on, of which no keys or values are kept."""

from collections.abc import Callable, Sequence

import mlx.core as mx

from engine.attention.attend import Mask, attend, causal_mask
from engine.attention.attend_rows import Rotation
from engine.attention.rows import Biases, Rows
from engine.cache.slab import join, split


class WholeRows(Rows):
    """Texts padded on the right to one length, read in a single pass. Padding follows the text, so nobody sees it.

    windows: per layer the number of tokens it sees, or None for all
    lengths: tokens of each text
    both_ways: every token sees the later ones too, as in EmbeddingGemma; padding is masked then
    """

    def __init__(self, windows: Sequence[int | None], lengths: Sequence[int], *, both_ways: bool = False) -> None:
        self._windows = windows
        self._both_ways = both_ways
        self._masks: dict[int | None, Mask] = {}
        self._lengths = lengths
        self.offsets = 0
        self.planned_lengths = list(lengths)

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
        """Attend to the new keys and values alone. See Rows.attend; biases are encoder-decoders' and not taken."""
        queries, keys, values = (split(each, head_dim) for each in (queries, keys, values))
        if turn is not None:
            queries, keys = turn.apply(queries), turn.apply(keys)
        window = self._windows[layer]
        if window not in self._masks:
            self._masks[window] = self._mask(queries.shape[2], window)
        attended = attend(queries, keys, values, scale, self._masks[window], sinks=sinks, softcap=softcap)
        return attended if head_dim is None else join(attended)

    def biases(self, of_positions: Callable[[int | mx.array, int, int], mx.array], length: int) -> Biases:
        """Not for models with position biases: those are encoder-decoders."""
        raise NotImplementedError

    def advance(self, length: int) -> None:
        """Nothing is counted: there is no next pass."""

    def _mask(self, length: int, window: int | None) -> Mask:
        if not self._both_ways:
            return "causal" if window is None or window >= length else causal_mask(length, length, window)
        visible = mx.arange(length) < mx.array(list(self._lengths))[:, None, None, None]
        if window is None:
            return visible
        places = mx.arange(length)
        return visible & (mx.abs(places[:, None] - places) < window)
