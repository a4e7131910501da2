"""Nemotron-H: layers of one thing each, Mamba-2, attention, an MLP or experts (NVIDIA 2025, arXiv:2504.03624)."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.cache.spec import index_in_kind
from engine.config import ConfigReader
from engine.configs.convolutions import are_channels_last
from engine.errors import CheckpointUnsupported
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.experts import stack_experts, stacked_name
from engine.layers.mamba import Mamba2, Mamba2Spec, MixerBlock, rename_backbone
from engine.layers.mlp import MLP
from engine.layers.norm import RMSNorm
from engine.layers.routed_mlp import PlainExpertsMLP
from engine.layers.router import Routing
from engine.layers.state_space import HeadSpaceSizes

_PATTERN = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
_OLDER = {"mamba": "linear_attention", "attention": "full_attention"}
_PROJECTIONS = {"fc1": "up_proj", "fc2": "down_proj"}


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        kinds, hidden_size = _kinds(config), config.count("hidden_size", 4096)
        eps = config.number("layer_norm_epsilon", 1e-5)
        self._num_experts = config.count("n_routed_experts", 8)
        super().__init__(
            config.count("vocab_size", 131072),
            hidden_size,
            [
                _block(config, kind, index, RMSNorm(hidden_size, eps))
                for kind, index in zip(kinds, index_in_kind(kinds), strict=True)
            ],
            RMSNorm(hidden_size, eps),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=[None] * kinds.count("full_attention"),
            num_states=kinds.count("linear_attention"),
        )

    def rename(self, name: str) -> str | None:
        """Our names for the frame; experts make up one stack."""
        for theirs, ours in _PROJECTIONS.items():
            name = name.replace(f".switch_mlp.{theirs}.", f".switch_mlp.{ours}.")
        return stacked_name(rename_backbone(name), {})

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Stack the experts."""
        yield from super().convert(stack_experts(tensors, self._num_experts, {}))


def _kinds(config: ConfigReader) -> list[str]:
    """What each layer is: a list of words, or a pattern with a letter per layer, as a text or as a list."""
    for key in ("layers_block_type", "layer_types"):
        if config.has(key):
            words = config.texts(key)
            break
    else:
        key, words = "hybrid_override_pattern", [*config.text("hybrid_override_pattern")]
    kinds = [_PATTERN.get(word, _OLDER.get(word, word)) for word in words]
    if not kinds or not set(kinds) <= set(_PATTERN.values()):
        raise CheckpointUnsupported(key, words, f"{', '.join(_PATTERN)} or {', '.join(_PATTERN.values())}")
    return kinds


def _block(config: ConfigReader, kind: str, index: int, norm: RMSNorm) -> MixerBlock:
    if kind == "linear_attention":
        return MixerBlock(Mamba2(index, _mamba(config)), norm)
    if kind == "full_attention":
        return MixerBlock(_attention(config, index), norm)
    return MixerBlock(_experts(config) if kind == "moe" else _mlp(config, "intermediate_size"), norm, pointwise=True)


def _mamba(config: ConfigReader) -> Mamba2Spec:
    config.choice("mamba_hidden_act", ("silu", "swish"), "silu")
    groups = config.count(_older(config, "n_groups", "mamba_n_groups"), 8)
    space = HeadSpaceSizes(
        config.count("mamba_num_heads", 128),
        config.count("mamba_head_dim", 64),
        groups,
        config.count("ssm_state_size", 128),
        *config.limits(_older(config, "time_step_limit", "mamba_dt_limit")),
    )
    bias = config.flag("use_bias", default=False)
    return Mamba2Spec(
        config.count("hidden_size", 4096),
        space,
        config.count(_older(config, "conv_kernel", "mamba_d_conv"), 4),
        conv_bias=config.flag(_older(config, "use_conv_bias", "mamba_conv_bias"), default=True),
        input_bias=bias,
        output_bias=bias,
        channels_last=are_channels_last(config, ".conv1d.weight"),
        eps=config.number("layer_norm_epsilon", 1e-5),
        norm_groups=groups,
    )


def _older(config: ConfigReader, key: str, older: str) -> str:
    return older if config.has(older) else key


def _attention(config: ConfigReader, index: int) -> SelfAttention:
    hidden_size, num_heads = config.count("hidden_size", 4096), config.count("num_attention_heads", 32)
    sizes = HeadSizes(
        hidden_size, num_heads, config.count("num_key_value_heads", num_heads), config.count("head_dim", 128)
    )
    # transformers' class has no biases whatever the configuration says, and others store them where it says so.
    stored = config.shape_of_first(".mixer.q_proj.bias") is not None
    bias = config.flag("attention_bias", default=False) and stored
    return SelfAttention(index, sizes, None, bias=bias, output_bias=bias)


def _mlp(config: ConfigReader, size_key: str) -> MLP:
    return MLP(
        config.count("hidden_size", 4096),
        config.count(size_key, 21504 if size_key == "intermediate_size" else 7688),
        config.choice("mlp_hidden_act", ("relu2", "relu", "silu", "gelu"), "relu2"),
        names=("up_proj", "down_proj"),
        bias=config.flag("mlp_bias", default=False),
    )


def _experts(config: ConfigReader) -> PlainExpertsMLP:
    routing = Routing(
        num_experts=config.count("n_routed_experts", 8),
        num_chosen=config.count("num_experts_per_tok", 2),
        scores="sigmoid",
        renormalise=config.flag("norm_topk_prob", default=True),
        factor=config.number("routed_scaling_factor", 1.0),
        num_groups=config.count("n_group", 1),
        num_chosen_groups=config.count("topk_group", 1),
        best_of_group=2,
        corrected=True,
    )
    return PlainExpertsMLP(
        config.count("hidden_size", 4096),
        routing,
        config.count("moe_intermediate_size", 7688),
        config.choice("mlp_hidden_act", ("relu2", "relu", "silu", "gelu"), "relu2"),
        shared=_mlp(config, "moe_shared_expert_intermediate_size"),
        latent_size=config.optional_count("moe_latent_size"),
        bias=config.flag("mlp_bias", default=False),
    )
