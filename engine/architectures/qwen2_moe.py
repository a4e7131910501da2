"""Qwen 1.5 and 2 with a mixture of experts, and a shared one with a gate of its own (arXiv:2407.10671)."""

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import PreNormBlock
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope
from engine.layers.routed_mlp import ExpertsLM
from engine.layers.shared_experts import ExpertSizes, SharedExpertMLP


class Model(ExpertsLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        num_layers = config.count("num_hidden_layers")
        rope = Rope(config.rope(sizes.head_dim))
        experts = _experts(config, sizes.hidden_size)
        self._num_experts = experts.num_experts
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope, experts) for layer in range(num_layers)],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-6)),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=_windows(config, num_layers),
        )


def _experts(config: ConfigReader, hidden_size: int) -> ExpertSizes:
    return ExpertSizes(
        hidden_size,
        config.count("num_experts", 60),
        config.count("num_experts_per_tok", 4),
        config.count("moe_intermediate_size", 1408),
        config.count("shared_expert_intermediate_size", 5632),
        config.choice("hidden_act", ACTIVATIONS, "silu"),
        renormalise=config.flag("norm_topk_prob", default=False),
    )


def _windows(config: ConfigReader, num_layers: int) -> list[int | None]:
    """Where windows are used: as layer_types says, else in every other layer of the first max_window_layers."""
    listed, most = config.has("layer_types"), config.whole("max_window_layers", 28)
    if not config.has("sliding_window") or not config.flag("use_sliding_window", default=False):
        return [None] * num_layers
    if listed:
        return config.windows(num_layers)
    window = config.count("sliding_window")
    return [window if layer % 2 == 0 and layer < most else None for layer in range(num_layers)]


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope, experts: ExpertSizes) -> PreNormBlock:
    eps = config.number("rms_norm_eps", 1e-6)
    dense = layer in config.integers("mlp_only_layers") or (layer + 1) % config.count("decoder_sparse_step", 1) != 0
    inner_size = config.count("intermediate_size", 5632)
    return PreNormBlock(
        SelfAttention(layer, sizes, rope, bias=config.flag("qkv_bias", default=True)),
        GatedMLP(sizes.hidden_size, inner_size, experts.activation) if dense else SharedExpertMLP(experts),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
