"""OLMo 3: OLMo 2 with a window in most layers, which keep the plain rotation (arXiv:2512.13961)."""

from dataclasses import replace

from engine.config import ConfigReader
from engine.errors import CheckpointUnsupported
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes
from engine.layers.causal import CausalLM
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.post_norm import JointlyNormedAttention, PostNormBlock
from engine.layers.rope import Rope

_BASE = 500_000.0  # of rotary positions


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        num_layers = config.count("num_hidden_layers")
        windows = config.patterned_windows(num_layers, 4)
        full, windowed = _ropes(config, sizes.head_dim)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [
                _block(config, layer, sizes, full if window is None else windowed)
                for layer, window in enumerate(windows)
            ],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=windows,
        )


def _ropes(config: ConfigReader, head_dim: int) -> tuple[Rope, Rope]:
    """The rotation of full and of windowed layers; older files scale the full ones alone, without saying so."""
    full = config.rope(head_dim, _BASE, kind="full_attention")
    if config.has("rope_parameters"):
        config.require_layer_types()
        return Rope(full), Rope(config.rope(head_dim, _BASE, kind="sliding_attention"))
    if not config.has("rope_scaling") and full.base != _BASE:  # transformers passes over a base without scaling
        raise CheckpointUnsupported("rope_theta", full.base, str(_BASE))
    return Rope(full), Rope(replace(full, kind="default"))


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PostNormBlock:
    eps = config.number("rms_norm_eps", 1e-5)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    return PostNormBlock(
        JointlyNormedAttention(layer, sizes, rope, eps, bias=config.flag("attention_bias", default=False)),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
