"""Attention over given keys and values: the seam between the layers and the kernels. Knows arrays, no caches."""

from typing import Literal

import mlx.core as mx

from engine.attention.options import AttentionOptions
from engine.native.kernels import Kernels

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
