"""Blocks whose norms stand behind attention and MLP (OLMo 2, arXiv:2501.00656)."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import Mixing, Pointwise
from engine.layers.linear import Norm
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class JointlyNormedAttention(SelfAttention):
    """Self-attention whose queries and keys are normed before they are split into heads.

    limit: queries, keys and values lie within it; None for none
    bias: of all projections; otherwise as SelfAttention
    """

    def __init__(
        self,
        layer: int,
        sizes: HeadSizes,
        rope: Rope,
        eps: float,
        *,
        bias: bool = False,
        limit: float | None = None,
    ) -> None:
        super().__init__(
            layer,
            sizes,
            rope,
            bias=bias,
            output_bias=bias,
            q_norm=RMSNorm(sizes.num_heads * sizes.head_dim, eps),
            k_norm=RMSNorm(sizes.num_kv_heads * sizes.head_dim, eps),
        )
        self._limit = limit

    def heads(self, x: mx.array, norm: Norm | None) -> tuple[mx.array, mx.array, mx.array]:
        """Queries (rows, length, num_heads * head_dim), keys and values (..., num_kv_heads * head_dim), not rotated."""
        queries, keys, values = self._projections.project(x, norm)
        queries, keys = self.q_norm(queries), self.k_norm(keys)
        return clipped(queries, self._limit), clipped(keys, self._limit), clipped(values, self._limit)


def clipped(x: mx.array, limit: float | None) -> mx.array:
    """Values from -limit to limit; all of them where there is none (OLMo, arXiv:2402.00838)."""
    return x if limit is None else mx.clip(x, -limit, limit)


class PostNormBlock(Module):
    """x + norm(attention(x)), then x + norm(mlp(x))."""

    def __init__(self, self_attn: Mixing, mlp: Pointwise, attention_norm: Pointwise, mlp_norm: Pointwise) -> None:
        self.self_attn = self_attn
        self.mlp = mlp
        self.post_attention_layernorm = attention_norm
        self.post_feedforward_layernorm = mlp_norm

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = x + self.post_attention_layernorm(self.self_attn(x, batch))
        return x + self.post_feedforward_layernorm(self.mlp(x))
