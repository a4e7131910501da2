"""Granite 3 with a mixture of experts, whose gates and up projections lie in one tensor."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope
from engine.layers.routed_mlp import ExpertsLM, RoutedMLP, SparseBlock
from engine.layers.router import Routing


class Model(ExpertsLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads(), scale=config.number("attention_multiplier", 1.0))
        rope = Rope(config.rope(sizes.head_dim))
        num_experts, num_chosen = config.count("num_local_experts", 8), config.count("num_experts_per_tok", 2)
        routing = Routing(num_experts, num_chosen, "softmax", renormalise=True)
        self._num_experts = num_experts
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope, routing) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-6)),
            tied=config.flag("tie_word_embeddings", default=False),
            embedding_scale=config.number("embedding_multiplier", 1.0),
            logit_scale=1 / config.number("logits_scaling", 1.0),
        )

    def rename(self, name: str) -> str | None:
        """The gate speaks for the up projection."""
        name = name.replace(".router.layer.", ".gate.").replace(".input_linear.", ".switch_mlp.gate_proj.")
        return super().rename(name.replace(".output_linear.", ".switch_mlp.down_proj."))

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Part gates and up projections, whose rows lie one behind the other."""
        yield from super().convert(_parted(tensors))


def _parted(tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
    for name, array in tensors:
        if ".input_linear." not in name:
            yield name, array
            continue
        for part, rows in zip(("gate_proj", "up_proj"), mx.split(array, 2, axis=1), strict=True):
            yield name.replace(".input_linear.", f".switch_mlp.{part}."), rows


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope, routing: Routing) -> SparseBlock:
    bias = config.flag("attention_bias", default=False)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    eps = config.number("rms_norm_eps", 1e-6)
    return SparseBlock(
        SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias),
        RoutedMLP(sizes.hidden_size, routing, config.count("intermediate_size"), activation),
        (RMSNorm(sizes.hidden_size, eps), RMSNorm(sizes.hidden_size, eps)),
        config.number("residual_multiplier", 1.0),
    )
