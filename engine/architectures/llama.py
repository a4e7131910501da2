"""Llama 1 to 3, SmolLM, TinyLlama, Yi: pre-norm decoder with rotary positions and a gated MLP (arXiv:2302.13971)."""

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
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-6)),
            tied=config.flag("tie_word_embeddings", default=False),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    bias = config.flag("attention_bias", default=False)
    mlp = GatedMLP(
        sizes.hidden_size,
        config.count("intermediate_size"),
        config.choice("hidden_act", ACTIVATIONS, "silu"),
        bias=config.flag("mlp_bias", default=False),
    )
    eps = config.number("rms_norm_eps", 1e-6)
    return PreNormBlock(
        SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias),
        mlp,
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
