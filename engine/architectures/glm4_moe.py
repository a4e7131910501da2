"""GLM 4.5 to 4.7: half of each head rotated, experts chosen by corrected sigmoids (arXiv:2508.06471)."""

from engine.config import ConfigReader
from engine.configs.routing import read_corrected_routing
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import PreNormBlock
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope
from engine.layers.routed_mlp import ExpertsLM, RoutedMLP
from engine.layers.router import Routing


class Model(ExpertsLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        rope = Rope(config.rope(sizes.head_dim, default_part=0.5))
        routing = read_corrected_routing(config, num_experts=128, num_chosen=8, groups=(1, 1), factor=1.0)
        self._num_experts = routing.num_experts
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope, routing) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope, routing: Routing) -> PreNormBlock:
    eps = config.number("rms_norm_eps", 1e-5)
    bias, normed = config.flag("attention_bias", default=False), config.flag("use_qk_norm", default=False)
    norms = (RMSNorm(sizes.head_dim, eps), RMSNorm(sizes.head_dim, eps)) if normed else (None, None)
    return PreNormBlock(
        SelfAttention(layer, sizes, rope, bias=bias, q_norm=norms[0], k_norm=norms[1]),
        _mlp(config, layer, sizes.hidden_size, routing),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )


def _mlp(config: ConfigReader, layer: int, hidden_size: int, routing: Routing) -> RoutedMLP | GatedMLP:
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    inner_size = config.count("moe_intermediate_size", 1408)
    shared_size = config.count("n_shared_experts", 1) * inner_size
    if layer < config.whole("first_k_dense_replace", 1):
        return GatedMLP(hidden_size, config.count("intermediate_size"), activation)
    return RoutedMLP(hidden_size, routing, inner_size, activation, shared_size=shared_size)
