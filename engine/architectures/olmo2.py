"""OLMo 2: norms after attention and MLP, and over all heads' queries and keys at once (arXiv:2501.00656)."""

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes
from engine.layers.causal import CausalLM
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.post_norm import JointlyNormedAttention, PostNormBlock
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


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PostNormBlock:
    eps = config.number("rms_norm_eps", 1e-5)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    return PostNormBlock(
        JointlyNormedAttention(layer, sizes, rope, eps, bias=config.flag("attention_bias", default=False)),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
