"""OLMo 2: norms after attention and MLP, and over all heads' queries and keys at once (arXiv:2501.00656)."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.fused import Norm
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class Attention(SelfAttention):
    """Queries and keys are normed before they are split into heads."""

    def heads(self, x: mx.array, norm: Norm | None) -> tuple[mx.array, mx.array, mx.array]:
        """Queries (rows, length, num_heads * head_dim), keys and values (..., num_kv_heads * head_dim), not rotated."""
        queries, keys, values = self._projections.project(x, norm)
        return self.q_norm(queries), self.k_norm(keys), values


class Block(Module):
    """x + norm(attention(x)), then x + norm(mlp(x))."""

    def __init__(self, config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> None:
        eps = config.number("rms_norm_eps", 1e-5)
        bias = config.flag("attention_bias", default=False)
        self.self_attn = Attention(
            layer,
            sizes,
            rope,
            bias=bias,
            output_bias=bias,
            q_norm=RMSNorm(sizes.num_heads * sizes.head_dim, eps),
            k_norm=RMSNorm(sizes.num_kv_heads * sizes.head_dim, eps),
        )
        activation = config.choice("hidden_act", ACTIVATIONS, "silu")
        self.mlp = GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation)
        self.post_attention_layernorm = RMSNorm(sizes.hidden_size, eps)
        self.post_feedforward_layernorm = RMSNorm(sizes.hidden_size, eps)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = x + self.post_attention_layernorm(self.self_attn(x, batch))
        return x + self.post_feedforward_layernorm(self.mlp(x))


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        rope = Rope(config.rope(sizes.head_dim))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [Block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
        )
