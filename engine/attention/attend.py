"""Attention over given keys and values: the seam between the caches and the kernels."""

from typing import Any, Literal

import mlx.core as mx

Mask = mx.array | Literal["causal"] | None


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: Mask = None,
    *,
    sinks: mx.array | None = None,
    softcap: float | None = None,
    native: Any = None,
) -> mx.array:
    """Attend with grouped key heads (Ainslie et al. 2023, arXiv:2305.13245).

    queries: (batch, num_heads, length, head_dim)
    keys, values: (batch, num_kv_heads, context, head_dim); context >= length
    mask: None, "causal" (the last query sees every key), or bool or additive (length, context) or
        (batch or 1, 1, length, context)
    sinks: (num_heads,) logits that join the softmax's denominator
    softcap: scores become softcap * tanh(scores / softcap) before the mask (Gemma 2)
    native: the kernels of this device, or None
    Returns (batch, num_heads, length, head_dim) in the dtype of queries.
    """
    if native is not None and queries.dtype == mx.float32:
        return _attend_natively(native, queries, keys, values, scale, mask, sinks, softcap)
    if softcap is None:
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask, sinks=sinks)
    return _attend_capped(queries, keys, values, scale, mask, softcap)


def causal_mask(length: int, context: int, window: int | None = None) -> mx.array:
    """Which keys each of the last `length` of `context` positions sees: its own and earlier ones.

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


def _attend_natively(
    native: Any,
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: Mask,
    sinks: mx.array | None,
    softcap: float | None,
) -> mx.array:
    causal, array = (True, None) if isinstance(mask, str) else (False, mask)
    attended: list[mx.array] = native.attend_rows(
        queries, [keys, values], [], None, 0, keys.shape[2], scale, causal, 0, softcap or 0.0, sinks, array
    )
    return attended[0]


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
