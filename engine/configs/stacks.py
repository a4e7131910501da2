"""Read the stacks of the BART family from a configuration. Knows its keys; knows no arrays."""

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.encoder_decoder import StackSpec


def read_stacks(
    config: ConfigReader,
    *,
    pre_norm: bool,
    embedding_norm: bool,
    final_norm: bool,
    learned_positions: bool,
    fairseq_sinusoids: bool = False,
    default_activation: str = "gelu",
) -> tuple[StackSpec, StackSpec]:
    """The encoder's and the decoder's stack; a model file says what its family does with norms and positions.

    learned_positions: from a table, with two unused rows in front; else sinusoidal, unless the checkpoint has a table
    default_activation: where the configuration names none
    fairseq_sinusoids: sinusoidal positions begin at 2, and their slowest frequency is 1/10000
    """
    encoder, decoder = (
        StackSpec(
            hidden_size=config.count("d_model"),
            num_layers=config.count(f"{side}_layers"),
            num_heads=config.count(f"{side}_attention_heads"),
            inner_size=config.count(f"{side}_ffn_dim"),
            activation=config.choice("activation_function", ACTIVATIONS, default_activation),
            embedding_scale=_embedding_scale(config),
            pre_norm=pre_norm,
            embedding_norm=embedding_norm,
            final_norm=final_norm,
            learned_positions=0 if fairseq_sinusoids else _num_positions(config, side, learned=learned_positions),
            position_offset=2 if learned_positions or fairseq_sinusoids else 0,
            slowest_included=fairseq_sinusoids,
        )
        for side in ("encoder", "decoder")
    )
    return encoder, decoder


def _num_positions(config: ConfigReader, side: str, *, learned: bool) -> int:
    """Rows of the position table; 0 where there is none."""
    rows = config.count("max_position_embeddings", 1024)
    return rows if learned or config.stores(f"model.{side}.embed_positions.weight") else 0


def _embedding_scale(config: ConfigReader) -> float:
    return float(config.count("d_model") ** 0.5) if config.flag("scale_embedding", default=False) else 1.0
