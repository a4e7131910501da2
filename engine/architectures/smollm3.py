"""SmolLM 3: Llama-shaped; every few layers leave rotary positions out."""

from engine.config import ConfigReader
from engine.errors import CheckpointUnsupported
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        num_layers = config.count("num_hidden_layers")
        rope = Rope(config.rope(sizes.head_dim, 2_000_000.0))
        rotated = _rotated(config, num_layers)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope if rotated[layer] else None) for layer in range(num_layers)],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-6)),
            tied=config.flag("tie_word_embeddings", default=True),
            windows=_windows(config, rotated),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope | None) -> PreNormBlock:
    bias = config.flag("attention_bias", default=False)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    mlp_bias = config.flag("mlp_bias", default=False)
    eps = config.number("rms_norm_eps", 1e-6)
    return PreNormBlock(
        SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation, bias=mlp_bias),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )


def _rotated(config: ConfigReader, num_layers: int) -> list[bool]:
    """`no_rope_layers` holds 1 where a layer has positions, against its name; else every fourth has none."""
    interval = config.count("no_rope_layer_interval", 4)
    listed = config.numbers("no_rope_layers", num_layers)
    if listed is None:
        return [(layer + 1) % interval != 0 for layer in range(num_layers)]
    if any(each not in (0, 1) for each in listed):
        raise CheckpointUnsupported("no_rope_layers", listed, "a list of 0 and 1")
    return [each == 1 for each in listed]


def _windows(config: ConfigReader, rotated: list[bool]) -> list[int | None]:
    """Where use_sliding_window is on: as layer_types says, else in the layers without positions."""
    windows, listed = config.windows(len(rotated)), config.has("layer_types")
    if not config.flag("use_sliding_window", default=False):
        return [None] * len(rotated)
    return (
        windows if listed else [None if has_rope else window for has_rope, window in zip(rotated, windows, strict=True)]
    )
