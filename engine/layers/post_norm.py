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

    bias: of all projections; otherwise as SelfAttention
    """

    def __init__(self, layer: int, sizes: HeadSizes, rope: Rope, eps: float, *, bias: bool = False) -> None:
        super().__init__(
            layer,
            sizes,
            rope,
            bias=bias,
            output_bias=bias,
            q_norm=RMSNorm(sizes.num_heads * sizes.head_dim, eps),
            k_norm=RMSNorm(sizes.num_kv_heads * sizes.head_dim, eps),
        )

    def heads(self, x: mx.array, norm: Norm | None) -> tuple[mx.array, mx.array, mx.array]:
        """Queries (rows, length, num_heads * head_dim), keys and values (..., num_kv_heads * head_dim), not rotated."""
        queries, keys, values = self._projections.project(x, norm)
        return self.q_norm(queries), self.k_norm(keys), values


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
