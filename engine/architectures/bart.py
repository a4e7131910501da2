"""BART: post-norm encoder and decoder with learned positions (arXiv:1910.13461)."""

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.encoder_decoder import EncoderDecoderLM, StackSpec


class Model(EncoderDecoderLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.require("tie_word_embeddings", True)
        super().__init__(config.count("vocab_size"), _stack(config, "encoder"), _stack(config, "decoder"))


def _stack(config: ConfigReader, side: str) -> StackSpec:
    hidden_size = config.count("d_model")
    return StackSpec(
        hidden_size=hidden_size,
        num_layers=config.count(f"{side}_layers"),
        num_heads=config.count(f"{side}_attention_heads"),
        inner_size=config.count(f"{side}_ffn_dim"),
        activation=config.choice("activation_function", ACTIVATIONS, "gelu"),
        embedding_scale=hidden_size**0.5 if config.flag("scale_embedding", default=False) else 1.0,
        pre_norm=False,
        embedding_norm=True,
        final_norm=False,
        learned_positions=config.count("max_position_embeddings", 1024),
        position_offset=2,
    )
