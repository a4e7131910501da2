"""ERNIE 4.5, dense: Llama-shaped, with interleaved rotary pairs and one switch for all biases."""

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
        rope = Rope(config.rope(sizes.head_dim, 500_000.0), interleaved=True)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=True),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    bias = config.flag("use_bias", default=False)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    eps = config.number("rms_norm_eps", 1e-5)
    return PreNormBlock(
        SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation, bias=bias),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
