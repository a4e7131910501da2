"""Seed-OSS: Llama-shaped, with biases of queries, keys and values alone."""

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads(128))
        rope = Rope(config.rope(sizes.head_dim))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-6)),
            tied=config.flag("tie_word_embeddings", default=False),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    bias = config.flag("attention_bias", default=True)
    output_bias = config.flag("attention_out_bias", default=False)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    mlp_bias = config.flag("mlp_bias", default=False)
    eps = config.number("rms_norm_eps", 1e-6)
    return PreNormBlock(
        SelfAttention(layer, sizes, rope, bias=bias, output_bias=output_bias),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation, bias=mlp_bias),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
