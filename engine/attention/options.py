"""The options of one attention: the scale of its scores, and the keys that each query sees."""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """The keys that queries see, and how scores become weights.

    causal: each query sees one key more than the query before it; else all queries see the same keys
    window: only that many of the last keys; None for all
    softcap: scores become softcap * tanh(scores / softcap) before mask and window (Gemma 2)
    sinks: (num_heads,) logits that join the softmax's denominator
    mask: bool or additive float32, broadcastable to (rows, num_heads, length, context), the same for all heads where
        there is a softcap
    """

    scale: float
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    sinks: mx.array | None = None
    mask: mx.array | None = None
