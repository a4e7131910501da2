"""Keys and values of running sequences, and the view of them that one forward pass has.

Knows arrays and lengths; knows nothing of tokens, sampling or scheduling.
"""

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from engine.layers.attend import Mask, attend, causal_mask, with_bias

_SMALLEST_CAPACITY = 256


class LayerCache(Protocol):
    """Keys and values of one layer of one sequence."""

    def append(self, keys: mx.array, values: mx.array, offset: int) -> tuple[mx.array, mx.array, Mask]:
        """Store new tokens at `offset`; return the keys and values they see, and the mask between them.

        keys, values: (1, num_kv_heads, length, head_dim)
        """

    def fork(self) -> "LayerCache":
        """A copy that goes its own way; memory is shared until one of them is written."""

    @property
    def arrays(self) -> list[mx.array]:
        """The buffers, for evaluation."""


class FullCache:
    """Every token so far, in a buffer (1, num_kv_heads, capacity, head_dim) whose capacity doubles."""

    def __init__(self) -> None:
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def append(self, keys: mx.array, values: mx.array, offset: int) -> tuple[mx.array, mx.array, Mask]:
        """Store and return everything up to the new tokens."""
        length = keys.shape[2]
        end = offset + length
        own_keys = _with_capacity(self._keys, keys, end)
        own_values = _with_capacity(self._values, values, end)
        # A buffer is written in place only while nothing else refers to it: the attributes let go first.
        self._keys = self._values = None
        own_keys[:, :, offset:end] = keys
        own_values[:, :, offset:end] = values
        self._keys, self._values = own_keys, own_values
        return own_keys[:, :, :end], own_values[:, :, :end], "causal" if length > 1 else None

    def fork(self) -> "FullCache":
        """A copy that goes its own way; memory is shared until one of them is written."""
        copy = FullCache()
        # A slice is an array of its own, so that writing one in place leaves the other alone.
        copy._keys, copy._values = (None if each is None else each[:] for each in (self._keys, self._values))
        return copy

    @property
    def arrays(self) -> list[mx.array]:
        """The buffers, for evaluation."""
        return [] if self._keys is None or self._values is None else [self._keys, self._values]


class WindowCache:
    """The last `window` tokens in a ring: token t is at place t modulo window (arXiv:2310.06825).

    A token sees `window` keys, its own included. The order in the ring does not matter to one new token: positions
    were rotated into the keys. Several new tokens get the past in order of time, and a mask.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._ring: FullCache = FullCache()

    def append(self, keys: mx.array, values: mx.array, offset: int) -> tuple[mx.array, mx.array, Mask]:
        """Store the new tokens and return what they see."""
        length = keys.shape[2]
        if offset + length <= self._window:
            return self._ring.append(keys, values, offset)
        if length == 1:
            return self._replace(keys, values, offset)
        return self._slide(keys, values, offset)

    def fork(self) -> "WindowCache":
        """A copy that goes its own way; memory is shared until one of them is written."""
        copy = WindowCache(self._window)
        copy._ring = self._ring.fork()
        return copy

    @property
    def arrays(self) -> list[mx.array]:
        """The ring, for evaluation."""
        return self._ring.arrays

    def _replace(self, keys: mx.array, values: mx.array, offset: int) -> tuple[mx.array, mx.array, Mask]:
        self._ring.append(keys, values, offset % self._window)
        own_keys, own_values = self._ring.arrays
        return own_keys[:, :, : self._window], own_values[:, :, : self._window], None

    def _slide(self, keys: mx.array, values: mx.array, offset: int) -> tuple[mx.array, mx.array, Mask]:
        past_keys, past_values = (self._in_order(array, offset) for array in self._ring.arrays or (None, None))
        seen_keys = keys if past_keys is None else mx.concatenate([past_keys, keys], axis=2)
        seen_values = values if past_values is None else mx.concatenate([past_values, values], axis=2)
        self._refill(seen_keys, seen_values, offset + keys.shape[2])
        return seen_keys, seen_values, causal_mask(keys.shape[2], seen_keys.shape[2], self._window)

    def _in_order(self, ring: mx.array | None, offset: int) -> mx.array | None:
        """The ring's tokens, oldest first."""
        if ring is None:
            return None
        start = offset % self._window
        if offset <= self._window:
            return ring[:, :, :offset]
        return mx.concatenate([ring[:, :, start : self._window], ring[:, :, :start]], axis=2)

    def _refill(self, keys: mx.array, values: mx.array, end: int) -> None:
        """Store the newest `window` tokens, each at its place; `end` tokens exist in all."""
        shift = end % self._window
        newest = [array[:, :, -self._window :] for array in (keys, values)]
        ring = [mx.roll(array, shift, 2) for array in newest]
        self._ring = FullCache()
        self._ring.append(ring[0], ring[1], 0)


class SequenceCache:
    """Keys and values of one sequence in every layer.

    windows: per layer the number of tokens it sees, or None for all
    length: tokens stored; planned_length: tokens the sequence may reach
    source: in encoder-decoder models, per layer the source's keys and values (1, num_heads, source length, head_dim)
    """

    def __init__(self, windows: Sequence[int | None], planned_length: int) -> None:
        self.layers: list[LayerCache] = [FullCache() if window is None else WindowCache(window) for window in windows]
        self.length = 0
        self.planned_length = planned_length
        self.source: list[tuple[mx.array, mx.array]] = []

    def fork(self) -> "SequenceCache":
        """A copy that goes its own way; memory is shared until one of them is written."""
        copy = SequenceCache([], self.planned_length)
        copy.layers = [layer.fork() for layer in self.layers]
        copy.length, copy.source = self.length, self.source
        return copy

    @property
    def arrays(self) -> list[mx.array]:
        """All buffers, for evaluation."""
        own = [array for layer in self.layers for array in layer.arrays]
        return own + [array for pair in self.source for array in pair]


class Rows:
    """The sequences of one forward pass, one row each, all with the same number of new tokens.

    lengths: tokens each row has stored before this pass
    offsets: the same as the position of each row's first new token: an int for a single row, else (rows,) int32
    planned_lengths: tokens each row may reach
    """

    def __init__(self, caches: Sequence[SequenceCache]) -> None:
        self._caches = caches
        self.lengths = [cache.length for cache in caches]
        self.planned_lengths = [cache.planned_length for cache in caches]
        single = len(caches) == 1
        self.offsets: int | mx.array = self.lengths[0] if single else mx.array(self.lengths)

    def attend(
        self,
        layer: int,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        *,
        sinks: mx.array | None = None,
        softcap: float | None = None,
        biases: Sequence[mx.array] | None = None,
    ) -> mx.array:
        """Store the new keys and values, and attend to what each row sees in this layer.

        queries: (rows, num_heads, length, head_dim); keys, values: (rows, num_kv_heads, length, head_dim)
        biases: per row addends to the scores, (1, num_heads, length, context)
        Returns (rows, num_heads, length, head_dim). See engine.layers.attend for the rest.
        """
        attended = []
        for row, cache in enumerate(self._caches):
            one = slice(row, row + 1)
            seen_keys, seen_values, mask = cache.layers[layer].append(keys[one], values[one], cache.length)
            mask = mask if biases is None else with_bias(mask, biases[row])
            attended.append(attend(queries[one], seen_keys, seen_values, scale, mask, sinks=sinks, softcap=softcap))
        return attended[0] if len(attended) == 1 else mx.concatenate(attended, axis=0)

    def attend_source(self, layer: int, queries: mx.array, scale: float) -> mx.array:
        """Attend to all of each row's source. queries: (rows, num_heads, length, head_dim); returns the same shape."""
        attended = [
            attend(queries[row : row + 1], *cache.source[layer], scale) for row, cache in enumerate(self._caches)
        ]
        return attended[0] if len(attended) == 1 else mx.concatenate(attended, axis=0)

    def advance(self, length: int) -> None:
        """Count `length` new tokens in every row, once all layers have stored them."""
        for cache in self._caches:
            cache.length += length


def _with_capacity(buffer: mx.array | None, like: mx.array, length: int) -> mx.array:
    _, heads, _, head_dim = like.shape
    if buffer is not None and length <= buffer.shape[2]:
        return buffer
    capacity = _SMALLEST_CAPACITY
    while capacity < length:
        capacity *= 2
    grown = mx.zeros((1, heads, capacity, head_dim), like.dtype)
    if buffer is not None:
        grown[:, :, : buffer.shape[2]] = buffer
    return grown
