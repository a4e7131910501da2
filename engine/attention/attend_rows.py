"""Store new keys and values and attend to what each row sees, in one step. Knows slots and places; no tokens.

One call of a native kernel where there is one, else the same in MLX operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from engine.attention.attend import attend
from engine.cache.layout import layout_for

Planes = list[mx.array]


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary positions of new queries and keys.

    periods: (pairs,) float32; the angle of pair i at position p is p / periods[i]
    offsets: position of each row's first token: one for all rows, or (rows,) integers
    interleaved: pair i is dimensions (2 i, 2 i + 1), else (i, i + pairs)
    magnitude: factor on rotated dimensions
    """

    periods: mx.array
    offsets: int | mx.array
    interleaved: bool = False
    magnitude: float = 1.0

    def apply(self, x: mx.array) -> mx.array:
        """Rotate (rows, heads, length, head_dim)."""
        dims = 2 * self.periods.size
        if self.magnitude != 1.0:
            x = mx.concatenate([x[..., :dims] * self.magnitude, x[..., dims:]], axis=-1)
        return mx.fast.rope(
            x, dims, traditional=self.interleaved, base=None, scale=1.0, offset=self.offsets, freqs=self.periods
        )


@dataclass(frozen=True, slots=True)
class KVLocation:
    """Where each row's keys and values are. Each is one number for all rows, or (rows,) integers.

    slots: which slot of the planes, None for the row's own number; no two rows with new tokens share one
    places: where the first new token goes; all of them must fit in
    lengths: how many places the row's last query sees, counted from place 0, new tokens included
    """

    slots: int | mx.array | None
    places: int | mx.array
    lengths: int | mx.array


@dataclass(frozen=True, slots=True)
class Scoring:
    """How queries see keys.

    causal: each query sees one place more than the one before it; else all see the same
    window: only that many of the last places; None for all
    softcap: scores become softcap * tanh(scores / softcap) before mask and window
    sinks: (num_heads,) logits that join the softmax's denominator
    mask: bool or additive float32, broadcastable to (rows, num_heads, length, places), the same for all heads where
        there is a softcap; lengths hold besides
    """

    scale: float
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    sinks: mx.array | None = None
    mask: mx.array | None = None


def attend_rows(
    native: Any,
    queries: mx.array,
    planes: Planes,
    tokens: Sequence[mx.array],
    location: KVLocation,
    scoring: Scoring,
    rotation: Rotation | None = None,
    bits: int = 0,
) -> tuple[mx.array, Planes]:
    """Rotate queries and new keys, write new keys and values into their slots, and attend.

    native: the kernels of this device, or None
    queries: (rows, num_heads, length, head_dim), or (rows, length, num_heads * head_dim) as projections leave them
    planes: keys (slots, num_kv_heads, places, head_dim) and values (..., value_dim); where bits is 8 or 4, packed keys,
        their scales and biases, and the same of values, as engine.cache.layout has them. The kernel writes them
        where they lie when nothing else refers to them: the caller lets go of them and keeps what is returned
    tokens: new keys and values, (rows, num_kv_heads, length, head_dim) or (rows, length, num_kv_heads * head_dim), in
        the dtype of the planes unless they are packed; none to attend only, and then the planes may be views
    Returns the attended, (rows, num_heads, length, value_dim) or (rows, length, num_heads * value_dim) like the
    queries, and the planes. With the kernel a row's result is the same whatever it is computed with: other rows, more
    queries of its own, or threads.
    """
    floats = bits != 0 or planes[0].dtype == mx.float32 or rotation is None
    if native is None or queries.dtype != mx.float32 or not floats:
        return _attend_in_operations(queries, planes, tokens, location, scoring, rotation, bits)
    turn = None
    if rotation is not None:
        turn = (rotation.periods, rotation.offsets, rotation.interleaved, rotation.magnitude)
    attended, *written = native.attend_cached(
        queries,
        planes,
        tokens,
        location.slots,
        location.places,
        location.lengths,
        scoring.scale,
        scoring.causal,
        scoring.window or 0,
        scoring.softcap or 0.0,
        scoring.sinks,
        scoring.mask,
        turn,
        bits,
    )
    return attended, written or planes


def _attend_in_operations(
    queries: mx.array,
    planes: Planes,
    tokens: Sequence[mx.array],
    location: KVLocation,
    scoring: Scoring,
    rotation: Rotation | None,
    bits: int,
) -> tuple[mx.array, Planes]:
    joined, layout = queries.ndim == 3, layout_for(bits or None)
    widths = [plane.shape[3] * 32 // bits for plane in planes[::3]] if bits else [plane.shape[3] for plane in planes]
    queries = _by_head(queries, widths[0])
    queries = queries if rotation is None else rotation.apply(queries)
    if tokens:
        keys, values = (_by_head(each, width) for each, width in zip(tokens, widths, strict=True))
        keys = keys if rotation is None else rotation.apply(keys)
        for plane, new in zip(planes, layout.planes(keys, values), strict=True):
            _write(plane, new, location)
    keys, values = layout.keys_and_values([_of_rows(plane, location.slots, queries.shape[0]) for plane in planes])
    mask = _seen(location.lengths, queries.shape[2], keys.shape[2], scoring)
    if scoring.mask is not None:
        shape = (1, 1, *scoring.mask.shape)[-4:]
        own = scoring.mask.reshape(shape)
        mask = mask & own if own.dtype == mx.bool_ else mx.where(mask, own, -mx.inf)
    found = attend(queries, keys, values, scoring.scale, mask, sinks=scoring.sinks, softcap=scoring.softcap)
    if not joined:
        return found, planes
    return found.transpose(0, 2, 1, 3).reshape(found.shape[0], found.shape[2], -1), planes


def _by_head(x: mx.array, width: int) -> mx.array:
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], -1, width).transpose(0, 2, 1, 3)


def _write(plane: mx.array, tokens: mx.array, location: KVLocation) -> None:
    length = tokens.shape[2]
    if isinstance(location.slots, int) and isinstance(location.places, int):
        plane[location.slots : location.slots + 1, :, location.places : location.places + length] = tokens
        return
    num_rows = tokens.shape[0]
    slots = _column(mx.arange(num_rows) if location.slots is None else location.slots, num_rows)
    places = _column(location.places, num_rows)
    plane[slots[:, :, None], mx.arange(plane.shape[1])[:, None], (places + mx.arange(length))[:, None]] = tokens


def _of_rows(plane: mx.array, slots: int | mx.array | None, num_rows: int) -> mx.array:
    if slots is None:
        return plane
    if isinstance(slots, int):
        one = plane[slots : slots + 1]
        return one if num_rows == 1 else mx.broadcast_to(one, (num_rows, *one.shape[1:]))
    return plane[slots]


def _seen(lengths: int | mx.array, length: int, places: int, scoring: Scoring) -> mx.array:
    """(rows or 1, 1, length or 1, places) bool."""
    ends = _column(lengths, 1)
    if scoring.causal:
        ends = ends - mx.arange(length - 1, -1, -1)
    ends = ends[:, None, :, None]
    place = mx.arange(places)
    seen = place < ends
    return seen if scoring.window is None else seen & (place >= ends - scoring.window)


def _column(numbers: int | mx.array, num_rows: int) -> mx.array:
    return mx.full((num_rows, 1), numbers) if isinstance(numbers, int) else numbers[:, None]
