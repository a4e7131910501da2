"""OLMoE: queries and keys normed over all heads, and experts in every layer (arXiv:2409.02060)."""

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes
from engine.layers.causal import PreNormBlock
from engine.layers.norm import RMSNorm
from engine.layers.post_norm import JointlyNormedAttention
from engine.layers.rope import Rope
from engine.layers.routed_mlp import ExpertsLM, RoutedMLP
from engine.layers.router import Routing


class Model(ExpertsLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        rope = Rope(config.rope(sizes.head_dim))
        routing = Routing(
            config.count("num_experts", 64),
            config.count("num_experts_per_tok", 8),
            "softmax",
            renormalise=config.flag("norm_topk_prob", default=False),
        )
        self._num_experts = routing.num_experts
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope, routing) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope, routing: Routing) -> PreNormBlock:
    bias, limit = config.flag("attention_bias", default=False), config.optional_number("clip_qkv")
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    eps = config.number("rms_norm_eps", 1e-5)
    return PreNormBlock(
        JointlyNormedAttention(layer, sizes, rope, eps, bias=bias, limit=limit),
        RoutedMLP(sizes.hidden_size, routing, config.count("intermediate_size"), activation),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
