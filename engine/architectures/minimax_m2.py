"""MiniMax M2: queries and keys normed over all heads, part of each head rotated, experts chosen by sigmoids."""

from engine.config import ConfigReader
from engine.errors import CheckpointUnsupported
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes
from engine.layers.norm import RMSNorm
from engine.layers.post_norm import JointlyNormedAttention
from engine.layers.rope import Rope
from engine.layers.routed_mlp import MIXTRAL_NAMES, ExpertsLM, RoutedMLP, SparseBlock
from engine.layers.router import Routing

_CORRECTION = "block_sparse_moe.e_score_correction_bias"


class Model(ExpertsLM):
    """The whole model."""

    _projections = MIXTRAL_NAMES

    def __init__(self, config: ConfigReader) -> None:
        _expect_the_published_switches(config)
        sizes = HeadSizes(*config.heads(128))
        part = config.count("rotary_dim", sizes.head_dim) / sizes.head_dim
        rope = Rope(config.rope(sizes.head_dim, 5_000_000.0, default_part=part))
        routing = Routing(
            config.count("num_local_experts", 256),
            config.count("num_experts_per_tok", 8),
            "sigmoid",
            renormalise=True,
            corrected=True,
        )
        self._num_experts = routing.num_experts
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope, routing) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-6)),
            tied=config.flag("tie_word_embeddings", default=False),
        )

    def rename(self, name: str) -> str | None:
        """Experts make up one stack; the correction is the router's."""
        return super().rename(name.replace(_CORRECTION, "block_sparse_moe.gate.e_score_correction_bias"))


def _expect_the_published_switches(config: ConfigReader) -> None:
    """Switches of the files that transformers' class has not."""
    config.expect("scoring_func", "sigmoid")
    config.expect("use_qk_norm", True)
    config.expect("qk_norm_type", "per_layer")
    config.expect("use_routing_bias", True)
    config.expect("shared_intermediate_size", 0)
    if any(kind != 1 for kind in config.integers("attn_type_list")):
        raise CheckpointUnsupported("attn_type_list", config.integers("attn_type_list"), "1 for every layer")


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope, routing: Routing) -> SparseBlock:
    eps = config.number("rms_norm_eps", 1e-6)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    return SparseBlock(
        JointlyNormedAttention(layer, sizes, rope, eps),
        RoutedMLP(sizes.hidden_size, routing, config.count("intermediate_size"), activation),
        (RMSNorm(sizes.hidden_size, eps), RMSNorm(sizes.hidden_size, eps)),
    )
