"""Ministral 3 and Devstral 2: Mistral with long rotary scaling and queries that grow with their position."""

from engine.config import ConfigReader
from engine.errors import CheckpointUnsupported
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.position import PositionScaling
from engine.layers.rope import Rope


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads(128))
        num_layers = config.count("num_hidden_layers")
        if not config.has("rope_parameters") and not config.has("rope_scaling"):
            raise CheckpointUnsupported("rope_parameters", None, "the scaling that the model was trained with")
        spec = config.rope(sizes.head_dim, 1_000_000.0)
        beta = config.rope_extra("llama_4_scaling_beta")
        scaling = None if beta is None else PositionScaling(beta, spec.original_length)
        rope = Rope(spec)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope, scaling) for layer in range(num_layers)],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=config.windows(num_layers),
        )


def _block(
    config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope, scaling: PositionScaling | None
) -> PreNormBlock:
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    eps = config.number("rms_norm_eps", 1e-5)
    return PreNormBlock(
        SelfAttention(layer, sizes, rope, scaling=scaling),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
