"""Attention over given keys and values, stored or not: the seam between the cache and the kernels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from engine.attention.qkv import Rotation
from engine.cache.layout import Planes
from engine.native.kernels import Kernels


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """The keys that queries see, and how scores become weights.

    causal: each query sees one key more than the query before it; else all queries see the same keys
    window: only that many of the last keys; None for all
    softcap: scores become softcap * tanh(scores / softcap) before mask and window (Gemma 2)
    sinks: (num_heads,) logits that join the softmax's denominator
    mask: bool or additive float32, broadcastable to (rows, num_heads, length, context), the same for all heads where
        there is a softcap
    value_dim: values are the last so many dimensions of the keys, which alone are stored (DeepSeek V2); None where
        values come beside the keys
    """

    scale: float
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    sinks: mx.array | None = None
    mask: mx.array | None = None
    value_dim: int | None = None


Mask = mx.array | Literal["causal"] | None


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    options: AttentionOptions,
    kernels: Kernels | None = None,
) -> mx.array:
    """Attend with grouped key heads (Ainslie et al. 2023, arXiv:2305.13245).

    queries: (batch, num_heads, length, head_dim)
    keys, values: (batch, num_kv_heads, context, head_dim); context >= length
    options: a mask stands in for causal and window
    kernels: the device's, or None
    Returns (batch, num_heads, length, head_dim) in the dtype of queries.
    """
    mask = _mask(options, queries.shape[2], keys.shape[2])
    if kernels is not None and queries.dtype == mx.float32:
        return _attend_with_kernels(kernels, queries, keys, values, options, mask)
    if options.softcap is None:
        return mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=options.scale, mask=mask, sinks=options.sinks
        )
    return _attend_capped(queries, keys, values, options.scale, mask, options.softcap)


def causal_mask(length: int, context: int, window: int | None = None) -> mx.array:
    """The keys that each of the last `length` of `context` positions sees: its own and earlier ones.

    window: only that many keys, its own included. Returns bool (length, context).
    """
    query = mx.arange(context - length, context)[:, None]
    key = mx.arange(context)[None]
    visible = key <= query
    return visible if window is None else visible & (key > query - window)


def with_bias(mask: Mask, bias: mx.array) -> mx.array:
    """A mask and an additive bias (..., length, context) as one additive mask."""
    if mask is None:
        return bias
    if isinstance(mask, str):
        mask = causal_mask(*bias.shape[-2:])
    return mx.where(mask, bias, -mx.inf) if mask.dtype == mx.bool_ else bias + mask


def _mask(options: AttentionOptions, length: int, context: int) -> Mask:
    if options.mask is not None or not options.causal:
        return options.mask
    return "causal" if options.window is None else causal_mask(length, context, options.window)


def _attend_with_kernels(
    kernels: Kernels, queries: mx.array, keys: mx.array, values: mx.array, options: AttentionOptions, mask: Mask
) -> mx.array:
    causal, array = (True, None) if isinstance(mask, str) else (False, mask)
    return kernels.attend_cached(
        queries,
        [keys, values],
        [],
        None,
        0,
        keys.shape[2],
        options.scale,
        causal,
        0,
        options.softcap or 0.0,
        options.sinks,
        array,
    )[0]


def _attend_capped(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: Mask, softcap: float
) -> mx.array:
    batch, num_heads, length, head_dim = queries.shape
    num_kv_heads, context = keys.shape[1], keys.shape[2]
    grouped = (queries * scale).reshape(batch, num_kv_heads, -1, length, head_dim)
    scores = grouped @ keys[:, :, None].swapaxes(-1, -2)
    scores = softcap * mx.tanh(scores / softcap)
    if isinstance(mask, str):
        mask = causal_mask(length, context)
    if mask is not None:
        mask = mask[:, :, None] if mask.ndim == 4 else mask
        scores = mx.where(mask, scores, -mx.inf) if mask.dtype == mx.bool_ else scores + mask
    weights = mx.softmax(scores, axis=-1, precise=True)
    return (weights @ values[:, :, None]).reshape(batch, num_heads, length, head_dim)


@dataclass(frozen=True, slots=True)
class KVLocation:
    """The cache entries of each row. Each is one number for all rows, or (rows,) integers.

    slots: the slot of the planes, None for the row's own number; no two rows with new tokens share a slot
    starts: the entry that the first new token goes to; all new tokens must fit in
    lengths: the number of entries that the row's last query sees, counted from entry 0, new tokens included
    """

    slots: int | mx.array | None
    starts: int | mx.array
    lengths: int | mx.array


def attend_cached(
    kernels: Kernels,
    queries: mx.array,
    planes: Planes,
    tokens: Sequence[mx.array],
    location: KVLocation,
    options: AttentionOptions,
    rotation: Rotation | None = None,
    bits: int = 0,
) -> tuple[mx.array, Planes]:
    """Rotate queries and new keys, write new keys and values into their slots, and attend.

    queries: float32, (rows, num_heads, length, head_dim), or (rows, length, num_heads * head_dim) as projections leave
        them
    planes: keys (slots, num_kv_heads, entries, head_dim) and values (..., value_dim); where bits is 8 or 4, quantised
        keys, their scales and biases, and the same of values, as engine.cache.layout has them. The kernel writes them
        where they lie when nothing else refers to them: the caller lets go of them and keeps what is returned
    tokens: new keys and values, (rows, num_kv_heads, length, head_dim) or (rows, length, num_kv_heads * head_dim), in
        the dtype of the planes unless these are quantised; none to attend only, and then the planes may be views
    options: the lengths hold besides the mask
    Returns the attended, (rows, num_heads, length, value_dim) or (rows, length, num_heads * value_dim) like the
    queries, and the planes. A row's result is the same whatever it is computed with: other rows, more queries of its
    own, or threads.
    """
    given = None
    if rotation is not None:
        given = (rotation.periods, rotation.offsets, rotation.interleaved, rotation.magnitude)
    attended, *written = kernels.attend_cached(
        queries,
        planes,
        tokens,
        location.slots,
        location.starts,
        location.lengths,
        options.scale,
        options.causal,
        options.window or 0,
        options.softcap or 0.0,
        options.sinks,
        options.mask,
        given,
        bits,
    )
    return attended, written or planes
