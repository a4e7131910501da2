"""Qwen 3.5 with a mixture of experts and a shared one in every layer (Qwen team 2026)."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.config import ConfigReader
from engine.configs.delta_hybrid import read_delta_hybrid
from engine.layers.delta_hybrid import DeltaHybridLM
from engine.layers.experts import stack_experts, stacked_name
from engine.layers.shared_experts import ExpertSizes, SharedExpertMLP, split_experts


class Model(DeltaHybridLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        spec = read_delta_hybrid(config)
        sizes = ExpertSizes(
            spec.heads.hidden_size,
            config.count("num_experts", 256),
            config.count("num_experts_per_tok", 8),
            config.count("moe_intermediate_size", 512),
            config.count("shared_expert_intermediate_size", 512),
            spec.activation,
            renormalise=True,
        )
        self._num_experts = sizes.num_experts
        super().__init__(spec, lambda _: SharedExpertMLP(sizes))

    def rename(self, name: str) -> str | None:
        """Experts make up one stack."""
        return stacked_name(name, {})

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Stack the experts, however the checkpoint lists them."""
        yield from super().convert(stack_experts(split_experts(tensors), self._num_experts, {}))
