"""Qwen 3 Next: gated DeltaNet layers, gated attention in every fourth, and experts in most (Qwen team 2025)."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import mlx.core as mx

from engine.config import ConfigReader
from engine.configs.delta_hybrid import read_delta_hybrid
from engine.layers.causal import Pointwise
from engine.layers.delta_hybrid import DeltaHybridLM
from engine.layers.experts import stack_experts, stacked_name
from engine.layers.mlp import GatedMLP
from engine.layers.shared_experts import ExpertSizes, SharedExpertMLP, split_experts


class Model(DeltaHybridLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        is_partly = config.shape_of_first(".linear_attn.in_proj_qkv.weight") is not None
        spec = replace(read_delta_hybrid(config), fused_projections=not is_partly, fused_factors=is_partly)
        hidden_size, activation = spec.heads.hidden_size, spec.activation
        sizes = ExpertSizes(
            hidden_size,
            config.count("num_experts", 512),
            config.count("num_experts_per_tok", 10),
            config.count("moe_intermediate_size", 512),
            config.count("shared_expert_intermediate_size", 512),
            activation,
            renormalise=config.flag("norm_topk_prob", default=True),
        )
        dense, step = config.integers("mlp_only_layers"), config.count("decoder_sparse_step", 1)
        inner_size = config.count("intermediate_size", 5632)
        self._num_experts = sizes.num_experts

        def mlp(layer: int) -> Pointwise:
            is_sparse = layer not in dense and (layer + 1) % step == 0
            return SharedExpertMLP(sizes) if is_sparse else GatedMLP(hidden_size, inner_size, activation)

        super().__init__(spec, mlp)

    def rename(self, name: str) -> str | None:
        """Experts make up one stack."""
        return stacked_name(name, {})

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Stack the experts, however the checkpoint lists them."""
        yield from super().convert(stack_experts(split_experts(tensors), self._num_experts, {}))
