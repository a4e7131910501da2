"""Gemma 1: Llama-shaped, with wide heads, norms of 1 + weight and scaled token vectors (arXiv:2403.08295)."""

from engine.config import ConfigReader
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.mlp import GatedMLP
from engine.layers.norm import UnitOffsetRMSNorm
from engine.layers.rope import Rope

# The first files call the function gelu, and mean its approximation all the same.
_NAMES = ("gelu", "gelu_pytorch_tanh")


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.choice("hidden_act", _NAMES, "gelu_pytorch_tanh")
        config.choice("hidden_activation", _NAMES[1:], "gelu_pytorch_tanh")
        config.require("use_bidirectional_attention", False)
        sizes = HeadSizes(*config.heads(256))
        rope = Rope(config.rope(sizes.head_dim))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            UnitOffsetRMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-6)),
            tied=config.flag("tie_word_embeddings", default=True),
            embedding_scale=sizes.hidden_size**0.5,
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    bias = config.flag("attention_bias", default=False)
    eps = config.number("rms_norm_eps", 1e-6)
    return PreNormBlock(
        SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), "gelu_pytorch_tanh"),
        UnitOffsetRMSNorm(sizes.hidden_size, eps),
        UnitOffsetRMSNorm(sizes.hidden_size, eps),
    )
