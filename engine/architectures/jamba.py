"""Jamba: Mamba with attention in some layers and experts in others, and no positions (AI21 2024, arXiv:2403.19887)."""

from collections.abc import Iterator

from engine.cache.spec import index_in_kind
from engine.config import ConfigReader
from engine.configs.convolutions import are_channels_last
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import Mixing, Pointwise, PreNormBlock
from engine.layers.mamba import Mamba, MambaSpec
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.routed_mlp import ExpertsLM, RoutedMLP
from engine.layers.router import Routing

_OURS = {
    ".mamba.": ".self_attn.",
    ".feed_forward.router.": ".mlp.gate.",
    ".feed_forward.": ".mlp.",
    ".pre_ff_layernorm.": ".post_attention_layernorm.",
    "model.final_layernorm.": "model.norm.",
}


class Model(ExpertsLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        num_layers, hidden_size = config.count("num_hidden_layers", 32), config.count("hidden_size", 4096)
        eps = config.number("rms_norm_eps", 1e-6)
        attending = _every(config, "attn_layer", 8, 4)
        self._num_experts = config.count("num_experts", 16)
        with_experts = _every(config, "expert_layer", 2, 1) if self._num_experts > 1 else range(0)
        kinds = ["attention" if layer in attending else "mamba" for layer in range(num_layers)]
        super().__init__(
            config.count("vocab_size", 65536),
            hidden_size,
            [
                PreNormBlock(
                    mixer,
                    _mlp(config, self._num_experts if layer in with_experts else 1),
                    RMSNorm(hidden_size, eps),
                    RMSNorm(hidden_size, eps),
                )
                for layer, mixer in enumerate(_mixers(config, kinds, eps))
            ],
            RMSNorm(hidden_size, eps),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=[None] * kinds.count("attention"),
            num_states=kinds.count("mamba"),
        )

    def rename(self, name: str) -> str | None:
        """Our names for the parts that both kinds of layers share; experts make up one stack."""
        for theirs, ours in _OURS.items():
            name = name.replace(theirs, ours)
        return super().rename(name)


def _every(config: ConfigReader, kind: str, period: int, offset: int) -> range:
    """The layers of a kind: every `period`th, from the one with number `offset` on."""
    first = config.optional_count(f"{kind}_offset", offset, least=0)
    return range(first or 0, config.count("num_hidden_layers", 32), config.count(f"{kind}_period", period))


def _mixers(config: ConfigReader, kinds: list[str], eps: float) -> Iterator[Mixing]:
    sizes = HeadSizes(*config.heads())
    config.choice("hidden_act", ("silu", "swish"), "silu")
    spec = MambaSpec(
        sizes.hidden_size,
        config.count("mamba_expand", 2) * sizes.hidden_size,
        config.count("mamba_d_state", 16),
        config.optional_count("mamba_dt_rank") or -(-sizes.hidden_size // 16),
        config.count("mamba_d_conv", 4),
        conv_bias=config.flag("mamba_conv_bias", default=True),
        bias=config.flag("mamba_proj_bias", default=False),
        channels_last=are_channels_last(config, ".conv1d.weight"),
        eps=eps,
    )
    config.require("mamba_inner_layernorms", value=True)
    for kind, index in zip(kinds, index_in_kind(kinds), strict=True):
        yield SelfAttention(index, sizes, None) if kind == "attention" else Mamba(index, spec)


def _mlp(config: ConfigReader, num_experts: int) -> Pointwise:
    sizes = config.count("hidden_size", 4096), config.count("intermediate_size", 14336)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    if num_experts == 1:
        return GatedMLP(*sizes, activation)
    routing = Routing(num_experts, config.count("num_experts_per_tok", 2), "softmax", renormalise=False)
    return RoutedMLP(sizes[0], routing, sizes[1], activation)
