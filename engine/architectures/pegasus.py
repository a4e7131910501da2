"""Pegasus: pre-norm encoder and decoder with computed positions (arXiv:1912.08777)."""

from engine.config import ConfigReader
from engine.configs.stacks import read_stacks
from engine.layers.encoder_decoder import EncoderDecoderLM


class Model(EncoderDecoderLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.require("tie_word_embeddings", True)
        stacks = read_stacks(config, pre_norm=True, embedding_norm=False, final_norm=True, learned_positions=False)
        super().__init__(config.count("vocab_size"), *stacks)
