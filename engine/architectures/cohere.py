"""Command R and R+: attention and MLP side by side over one norm; some files norm queries and keys head by head."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module
from engine.layers.norm import HeadwiseLayerNorm, LayerNorm
from engine.layers.rope import Rope


class Block(Module):
    """x + attention(norm(x)) + mlp(norm(x)), with one norm."""

    def __init__(self, config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> None:
        eps = config.number("layer_norm_eps", 1e-5)
        bias = config.flag("attention_bias", default=False)
        activation = config.choice("hidden_act", ACTIVATIONS, "silu")
        norms = [HeadwiseLayerNorm(count, sizes.head_dim, eps) for count in (sizes.num_heads, sizes.num_kv_heads)]
        q_norm, k_norm = norms if config.flag("use_qk_norm", default=False) else (None, None)
        self.self_attn = SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias, q_norm=q_norm, k_norm=k_norm)
        self.mlp = GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation)
        self.input_layernorm = LayerNorm(sizes.hidden_size, eps, bias=False)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        normed = self.input_layernorm(x)
        return x + self.self_attn(normed, batch) + self.mlp(normed)


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        rope = Rope(config.rope(sizes.head_dim, 500_000.0), interleaved=True)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [Block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            LayerNorm(sizes.hidden_size, config.number("layer_norm_eps", 1e-5), bias=False),
            tied=config.flag("tie_word_embeddings", default=True),
            logit_scale=config.number("logit_scale", 0.0625),
        )
