"""EXAONE 4: norms after the layers' parts; where some layers have a window, the others have no positions."""

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.post_norm import PostNormBlock
from engine.layers.rope import Rope


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        num_layers = config.count("num_hidden_layers")
        windows = _windows(config, num_layers)
        rope = Rope(config.rope(sizes.head_dim))
        hybrid = config.has("sliding_window")
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [
                _block(config, layer, sizes, None if hybrid and window is None else rope)
                for layer, window in enumerate(windows)
            ],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=windows,
        )


def _windows(config: ConfigReader, num_layers: int) -> list[int | None]:
    """As layer_types says; a pattern of letters stands beside it in published files."""
    if config.has("layer_types") or not config.has("sliding_window"):
        return config.windows(num_layers)
    return config.patterned_windows(num_layers, 4)


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope | None) -> PostNormBlock:
    eps = config.number("rms_norm_eps", 1e-5)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    norms = RMSNorm(sizes.head_dim, eps), RMSNorm(sizes.head_dim, eps)
    return PostNormBlock(
        SelfAttention(layer, sizes, rope, q_norm=norms[0], k_norm=norms[1]),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
