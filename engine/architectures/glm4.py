"""GLM 4: four norms per block, gate and up in one matrix, half of each head rotated in interleaved pairs."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.mlp import FusedMLP
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class Block(Module):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    def __init__(self, config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> None:
        eps = config.number("rms_norm_eps", 1.5625e-7)
        activation = config.choice("hidden_act", ACTIVATIONS, "silu")
        self.self_attn = SelfAttention(layer, sizes, rope, bias=config.flag("attention_bias", default=True))
        self.mlp = FusedMLP(sizes.hidden_size, config.count("intermediate_size"), activation)
        self.input_layernorm = RMSNorm(sizes.hidden_size, eps)
        self.post_self_attn_layernorm = RMSNorm(sizes.hidden_size, eps)
        self.post_attention_layernorm = RMSNorm(sizes.hidden_size, eps)
        self.post_mlp_layernorm = RMSNorm(sizes.hidden_size, eps)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = x + self.post_self_attn_layernorm(self.self_attn(self.input_layernorm(x), batch))
        return x + self.post_mlp_layernorm(self.mlp(self.post_attention_layernorm(x)))


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads(128))
        rope = Rope(config.rope(sizes.head_dim, default_part=0.5), interleaved=True)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [Block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1.5625e-7)),
            tied=config.flag("tie_word_embeddings", default=False),
        )
