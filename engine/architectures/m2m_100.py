"""M2M-100 and NLLB: mBART's layers with computed positions, as fairseq has them (arXiv:2010.11125)."""

from engine.config import ConfigReader
from engine.configs.stacks import read_stacks
from engine.layers.encoder_decoder import EncoderDecoderLM


class Model(EncoderDecoderLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.require("tie_word_embeddings", True)
        stacks = read_stacks(
            config,
            pre_norm=True,
            embedding_norm=False,
            final_norm=True,
            learned_positions=False,
            fairseq_sinusoids=True,
            default_activation="relu",
        )
        super().__init__(config.count("vocab_size"), *stacks)
