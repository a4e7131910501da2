"""InternLM 3: Llama-shaped, with switches of its own for biases."""

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
        sizes = HeadSizes(*config.heads())
        rope = Rope(config.rope(sizes.head_dim))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    """Two names for each switch: the files' own, and transformers'."""
    qkv_bias = config.flag("qkv_bias", default=config.flag("attention_bias", default=False))
    bias = config.flag("bias", default=config.flag("mlp_bias", default=False))
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    eps = config.number("rms_norm_eps", 1e-5)
    return PreNormBlock(
        SelfAttention(layer, sizes, rope, bias=qkv_bias, output_bias=bias),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation, bias=bias),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
