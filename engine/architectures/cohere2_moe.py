"""Command A with a mixture of experts: attention and experts side by side over one norm."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import Pointwise
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module
from engine.layers.norm import LayerNorm, RMSNorm
from engine.layers.rope import Rope
from engine.layers.routed_mlp import ExpertsLM, RoutedMLP
from engine.layers.router import Routing


class Block(Module):
    """x + attention(norm(x)) + mlp(norm(x)), with one norm."""

    def __init__(self, attention: SelfAttention, mlp: Pointwise, norm: Pointwise, mlp_scale: float) -> None:
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = norm
        self._mlp_scale = mlp_scale

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        normed = self.input_layernorm(x)
        return x + self.self_attn(normed, batch) + self.mlp(normed) * self._mlp_scale


class Model(ExpertsLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads(128))
        num_layers = config.count("num_hidden_layers")
        kinds, windows = _kinds(config, num_layers), _windows(config, num_layers)
        rope = Rope(config.rope(sizes.head_dim), interleaved=True)
        # The first layers have positions whatever they see, where they all see everything.
        forced = config.count("prefix_dense_sliding_window_pattern", 1) == 1
        ropes = [
            rope if window is not None or (forced and kind == "dense") else None
            for window, kind in zip(windows, kinds, strict=True)
        ]
        self._num_experts = config.count("num_experts", 8)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, ropes[layer], kinds[layer]) for layer in range(num_layers)],
            _norm(config, sizes.hidden_size),
            tied=config.flag("tie_word_embeddings", default=True),
            windows=windows,
            logit_scale=config.number("logit_scale", 0.0625),
        )


def _kinds(config: ConfigReader, num_layers: int) -> list[str]:
    num_dense = config.whole("first_k_dense_replace", 0)
    if config.has("mlp_layer_types"):
        return config.words("mlp_layer_types", ("dense", "sparse"), num_layers, "sparse")
    return ["dense" if layer < num_dense else "sparse" for layer in range(num_layers)]


def _windows(config: ConfigReader, num_layers: int) -> list[int | None]:
    """As layer_types says, else by one pattern for the first layers, and another from there on."""
    pattern, first = config.count("sliding_window_pattern", 4), config.count("prefix_dense_sliding_window_pattern", 1)
    num_dense, window = config.whole("first_k_dense_replace", 0), config.count("sliding_window", 4096)
    if config.has("layer_types"):
        return config.windows(num_layers)
    places = [(layer, first) if layer < num_dense else (layer - num_dense, pattern) for layer in range(num_layers)]
    return [window if (place + 1) % every else None for place, every in places]


def _norm(config: ConfigReader, hidden_size: int) -> RMSNorm | LayerNorm:
    rms_eps, eps = config.optional_number("rms_norm_eps"), config.number("layer_norm_eps", 1e-5)
    return LayerNorm(hidden_size, eps, bias=False) if rms_eps is None else RMSNorm(hidden_size, rms_eps)


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope | None, kind: str) -> Block:
    bias = config.flag("attention_bias", default=False)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    attention = SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias)
    inner_size, num_shared = config.count("intermediate_size"), config.whole("num_shared_experts", 0)
    dense_size = config.count("prefix_dense_intermediate_size", inner_size)
    average = config.choice("shared_expert_combination_strategy", ("average", "sum"), "average") == "average"
    if kind == "dense":
        return Block(
            attention, GatedMLP(sizes.hidden_size, dense_size, activation), _norm(config, sizes.hidden_size), 1
        )
    experts = RoutedMLP(
        sizes.hidden_size, _routing(config), inner_size, activation, shared_size=num_shared * inner_size
    )
    return Block(attention, experts, _norm(config, sizes.hidden_size), 0.5 if average and num_shared else 1)


def _routing(config: ConfigReader) -> Routing:
    """A softmax is taken over the chosen experts alone, which is the same as letting their shares add up to 1."""
    softmax = config.choice("expert_selection_fn", ("softmax", "sigmoid"), "softmax") == "softmax"
    renormalise = config.flag("norm_topk_prob", default=True)
    return Routing(
        config.count("num_experts", 8),
        config.count("num_experts_per_tok", 2),
        "softmax" if softmax else "sigmoid",
        renormalise=softmax or renormalise,
    )
