"""LFM2 with a mixture of experts in all but the first layers (Liquid AI 2025)."""

import re

from engine.cache.spec import index_in_kind
from engine.config import ConfigReader
from engine.configs.convolutions import are_channels_last
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import Mixing, PreNormBlock
from engine.layers.convolution import ShortConvolution
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope
from engine.layers.routed_mlp import MIXTRAL_NAMES, ExpertsLM, RoutedMLP
from engine.layers.router import Routing

_KINDS = ("conv", "full_attention")
_OURS = {
    "embedding_norm": "norm",
    "operator_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    ".feed_forward.expert_bias": ".mlp.gate.e_score_correction_bias",
    ".feed_forward.": ".mlp.",
    "out_proj": "o_proj",
    "q_layernorm": "q_norm",
    "k_layernorm": "k_norm",
    ".conv.": ".self_attn.",
}
_DENSE_NAME = re.compile(r"(?<=\.mlp\.)w[123](?=\.)")


class Model(ExpertsLM):
    """The whole model."""

    _projections = MIXTRAL_NAMES

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        kinds = config.words("layer_types", _KINDS, config.count("num_hidden_layers"), "full_attention")
        eps, rope = config.number("norm_eps", 1e-5), Rope(config.rope(sizes.head_dim, 1_000_000.0))
        routing = _routing(config)
        self._num_experts = routing.num_experts
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [
                PreNormBlock(
                    _mixer(config, kind, index, sizes, rope),
                    _mlp(config, layer, sizes.hidden_size, routing),
                    RMSNorm(sizes.hidden_size, eps),
                    RMSNorm(sizes.hidden_size, eps),
                )
                for layer, (kind, index) in enumerate(zip(kinds, index_in_kind(kinds), strict=True))
            ],
            RMSNorm(sizes.hidden_size, eps),
            tied=config.flag("tie_embedding", default=config.flag("tie_word_embeddings", default=True)),
            windows=[None] * kinds.count("full_attention"),
            num_states=kinds.count("conv"),
        )

    def rename(self, name: str) -> str | None:
        """Our names for the parts that both kinds of layers share; experts make up one stack."""
        for theirs, ours in _OURS.items():
            name = name.replace(theirs, ours)
        return super().rename(_DENSE_NAME.sub(lambda match: MIXTRAL_NAMES[match[0]], name))


def _routing(config: ConfigReader) -> Routing:
    return Routing(
        config.count("num_experts", 32),
        config.count("num_experts_per_tok", 4),
        "sigmoid",
        renormalise=config.flag("norm_topk_prob", default=True),
        factor=config.number("routed_scaling_factor", 1.0),
        corrected=config.flag("use_expert_bias", default=True),
    )


def _mixer(config: ConfigReader, kind: str, index: int, sizes: HeadSizes, rope: Rope) -> Mixing:
    eps, biased = config.number("norm_eps", 1e-5), config.flag("conv_bias", default=False)
    if kind == "conv":
        width, last = config.count("conv_L_cache", 3), are_channels_last(config, ".conv.conv.weight")
        return ShortConvolution(index, sizes.hidden_size, width, bias=biased, channels_last=last)
    return SelfAttention(index, sizes, rope, q_norm=RMSNorm(sizes.head_dim, eps), k_norm=RMSNorm(sizes.head_dim, eps))


def _mlp(config: ConfigReader, layer: int, hidden_size: int, routing: Routing) -> GatedMLP | RoutedMLP:
    if layer < config.whole("num_dense_layers", 2):
        return GatedMLP(hidden_size, config.count("intermediate_size", 7168), "silu")
    return RoutedMLP(hidden_size, routing, config.count("moe_intermediate_size", 1792), "silu")
