"""StarCoder 2: layer norms, biases everywhere, a plain MLP and a sliding window (arXiv:2402.19173)."""

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.mlp import MLP
from engine.layers.norm import LayerNorm
from engine.layers.rope import Rope


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        num_layers = config.count("num_hidden_layers")
        rope = Rope(config.rope(sizes.head_dim))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(num_layers)],
            LayerNorm(sizes.hidden_size, config.number("norm_epsilon", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=True),
            windows=config.windows(num_layers),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    bias = config.flag("use_bias", default=True)
    activation = config.choice("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh")
    eps = config.number("norm_epsilon", 1e-5)
    inner_size = config.count("intermediate_size")
    return PreNormBlock(
        SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias),
        MLP(sizes.hidden_size, inner_size, activation, bias=bias, names=("c_fc", "c_proj")),
        LayerNorm(sizes.hidden_size, eps),
        LayerNorm(sizes.hidden_size, eps),
    )
