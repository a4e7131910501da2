"""Qwen 3 Next: gated DeltaNet layers, gated attention in every fourth, and experts in most (Qwen team 2025)."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.config import ConfigReader
from engine.configs.delta_hybrid import read_delta_hybrid
from engine.layers.causal import Pointwise
from engine.layers.delta import DeltaSizes
from engine.layers.delta_hybrid import DeltaHybridLM
from engine.layers.experts import stack_experts, stacked_name
from engine.layers.mlp import GatedMLP
from engine.layers.shared_experts import ExpertSizes, SharedExpertMLP, split_experts


class Model(DeltaHybridLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        spec = read_delta_hybrid(config)
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
        self._delta = spec.delta

        def mlp(layer: int) -> Pointwise:
            is_sparse = layer not in dense and (layer + 1) % step == 0
            return SharedExpertMLP(sizes) if is_sparse else GatedMLP(hidden_size, inner_size, activation)

        super().__init__(spec, mlp)

    def rename(self, name: str) -> str | None:
        """Experts make up one stack; the first of two fused projections speaks for both."""
        name = name.replace(".in_proj_qkvz.", ".in_proj_qkv.").replace(".in_proj_ba.", ".in_proj_b.")
        return stacked_name(name, {})

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Stack the experts, however the checkpoint lists them, and part the fused projections."""
        stacked = stack_experts(split_experts(_parted(tensors, self._delta)), self._num_experts, {})
        yield from super().convert(stacked)


def _parted(tensors: Iterable[tuple[str, mx.array]], sizes: DeltaSizes) -> Iterator[tuple[str, mx.array]]:
    """Rows of `in_proj_qkvz` and `in_proj_ba`, which go head by head, in the order of their parts."""
    share = sizes.num_value_heads // sizes.num_key_heads
    fused = {
        ".in_proj_qkvz.": (
            [sizes.key_dim, sizes.key_dim, share * sizes.value_dim, share * sizes.value_dim],
            ((".in_proj_qkv.", (0, 1, 2)), (".in_proj_z.", (3,))),
        ),
        ".in_proj_ba.": ([share, share], ((".in_proj_b.", (0,)), (".in_proj_a.", (1,)))),
    }
    for name, array in tensors:
        key = next((each for each in fused if each in name), None)
        if key is None:
            yield name, array
            continue
        widths, targets = fused[key]
        by_head = array.reshape(sizes.num_key_heads, -1, *array.shape[1:])
        ends = [sum(widths[: number + 1]) for number in range(len(widths))]
        parts = [
            by_head[:, end - width : end].reshape(-1, *array.shape[1:]) for end, width in zip(ends, widths, strict=True)
        ]
        for target, numbers in targets:
            yield name.replace(key, target), mx.concatenate([parts[number] for number in numbers], axis=0)
