"""ERNIE 4.5 with a mixture of experts: a corrected softmax chooses, and shared experts stand beside."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import PreNormBlock
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope
from engine.layers.routed_mlp import ExpertsLM, RoutedMLP
from engine.layers.router import Routing

_CORRECTION = ".moe_statics.e_score_correction_bias"


class Model(ExpertsLM):
    """The whole model; a tied head may have a bias all the same."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        num_layers = config.count("num_hidden_layers")
        rope = Rope(config.rope(sizes.head_dim, 500_000.0), interleaved=True)
        routing = _routing(config)
        self._num_experts = routing.num_experts
        self._biased = config.flag("use_bias", default=False)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, num_layers, sizes, rope, routing) for layer in range(num_layers)],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=True),
        )
        if self._biased:
            self.head_bias = mx.zeros((config.count("vocab_size"),))

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., hidden_size) to (..., vocab_size)."""
        logits = super().logits(hidden)
        return logits + self.head_bias if self._biased else logits

    def rename(self, name: str) -> str | None:
        """Experts make up one stack; the correction is the router's."""
        name = name.replace(_CORRECTION, ".gate.e_score_correction_bias")
        return "head_bias" if name == "lm_head.bias" else super().rename(name)

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Stack the experts; corrections lie flat."""
        for name, array in super().convert(tensors):
            yield name, array.reshape(-1) if name.endswith("e_score_correction_bias") else array


def _routing(config: ConfigReader) -> Routing:
    """MLX's converter leaves the correction out, so the files tell whether there is one."""
    config.expect("moe_gate_act", "softmax")
    return Routing(
        config.count("moe_num_experts", 64),
        config.count("moe_k", 6),
        "softmax",
        renormalise=True,
        corrected=config.shape_of_first("e_score_correction_bias") is not None,
        least_sum=config.number("moe_norm_min", 1e-12),
    )


def _block(
    config: ConfigReader, layer: int, num_layers: int, sizes: HeadSizes, rope: Rope, routing: Routing
) -> PreNormBlock:
    bias = config.flag("use_bias", default=False)
    eps = config.number("rms_norm_eps", 1e-5)
    attention = SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias)
    first, interval = config.whole("moe_layer_start_index", 1), config.count("moe_layer_interval", 1)
    last = config.number("moe_layer_end_index", -1)
    sparse = first <= layer <= (num_layers if last == -1 else last) and (layer + 1) % interval == 0
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    inner_size = config.count("moe_intermediate_size", 1536)
    shared_size = config.whole("moe_num_shared_experts", 2) * inner_size
    mlp = (
        RoutedMLP(sizes.hidden_size, routing, inner_size, activation, shared_size=shared_size, shared_bias=bias)
        if sparse
        else GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation, bias=bias)
    )
    return PreNormBlock(attention, mlp, RMSNorm(sizes.hidden_size, eps), RMSNorm(sizes.hidden_size, eps))
