"""BART: post-norm encoder and decoder with learned positions (arXiv:1910.13461)."""

from engine.config import ConfigReader
from engine.configs.stacks import read_stacks
from engine.layers.encoder_decoder import EncoderDecoderLM


class Model(EncoderDecoderLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.require("tie_word_embeddings", True)
        stacks = read_stacks(config, pre_norm=False, embedding_norm=True, final_norm=False, learned_positions=True)
        super().__init__(config.count("vocab_size"), *stacks)
