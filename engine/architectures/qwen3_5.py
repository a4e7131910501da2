"""Qwen 3.5 and its successors: gated DeltaNet layers, and gated attention in every fourth (Qwen team 2026)."""

from engine.config import ConfigReader
from engine.configs.delta_hybrid import read_delta_hybrid
from engine.layers.delta_hybrid import DeltaHybridLM
from engine.layers.mlp import GatedMLP


class Model(DeltaHybridLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        spec = read_delta_hybrid(config)
        inner_size = config.count("intermediate_size")
        super().__init__(spec, lambda _: GatedMLP(spec.heads.hidden_size, inner_size, spec.activation))
