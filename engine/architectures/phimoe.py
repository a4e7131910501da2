"""Phi 3.5 MoE: layer norms, biases, and two experts chosen one after the other (arXiv:2404.14219)."""

from dataclasses import replace

import mlx.core as mx

from engine.config import ConfigReader
from engine.errors import CheckpointUnsupported
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.norm import LayerNorm
from engine.layers.rope import Rope
from engine.layers.routed_mlp import MIXTRAL_NAMES, ExpertsLM, RoutedMLP, SparseBlock
from engine.layers.router import Router, Routing
from engine.rope_spec import RopeSpec


class SparseMixer(Router):
    """The two best experts, each weighted by a softmax over those not much worse than it (arXiv:2409.12136).

    margin: half of how much worse they may be, relative to the best
    """

    def __init__(self, hidden_size: int, routing: Routing, margin: float) -> None:
        super().__init__(hidden_size, routing)
        self._margin = margin

    def choose(self, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """Expert numbers and weights, both (tokens, 2). tokens: (tokens, hidden_size)."""
        logits = self(tokens)
        first, first_weight = self._best(logits, logits)
        rest = mx.put_along_axis(logits, first, mx.array(-mx.inf, logits.dtype), axis=-1)
        second, second_weight = self._best(rest, logits)
        return mx.concatenate([first, second], axis=-1), mx.concatenate([first_weight, second_weight], axis=-1)

    def _best(self, rest: mx.array, logits: mx.array) -> tuple[mx.array, mx.array]:
        """The best of the rest and its weight, both (tokens, 1)."""
        best = mx.stop_gradient(mx.argmax(rest, axis=-1, keepdims=True))
        most = mx.take_along_axis(rest, best, axis=-1)
        is_worse = (most - logits) / mx.maximum(mx.abs(logits), most) > 2 * self._margin
        near = mx.where(is_worse, -mx.inf, rest)
        return best, mx.take_along_axis(mx.softmax(near, axis=-1, precise=True), best, axis=-1)


class Model(ExpertsLM):
    """The whole model."""

    _projections = MIXTRAL_NAMES

    def __init__(self, config: ConfigReader) -> None:
        config.expect("num_experts_per_tok", 2)
        sizes = HeadSizes(*config.heads())
        num_layers = config.count("num_hidden_layers")
        rope = Rope(_rope(config, sizes.head_dim), recomputes=True)
        routing = Routing(config.count("num_local_experts", 16), 2, "softmax", renormalise=False)
        self._num_experts = routing.num_experts
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope, routing) for layer in range(num_layers)],
            LayerNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=config.windows(num_layers),
            head_bias=config.flag("lm_head_bias", default=False),
        )


def _rope(config: ConfigReader, head_dim: int) -> RopeSpec:
    """Scaled rotations have a magnitude of their own, one for short and long texts in all published files."""
    spec = config.rope(head_dim, 1_000_000.0)
    short, long = config.rope_extra("short_mscale"), config.rope_extra("long_mscale")
    if spec.kind == "default":
        return spec
    if short is None or short != long:
        raise CheckpointUnsupported("rope_scaling.long_mscale", long, f"{short}, as short_mscale")
    return replace(spec, attention_factor=short)


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope, routing: Routing) -> SparseBlock:
    bias = config.flag("attention_bias", default=False)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    eps, margin = config.number("rms_norm_eps", 1e-5), config.number("router_jitter_noise", 0.01)
    experts = RoutedMLP(sizes.hidden_size, routing, config.count("intermediate_size"), activation)
    experts.gate = SparseMixer(sizes.hidden_size, routing, margin)
    return SparseBlock(
        SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias),
        experts,
        (LayerNorm(sizes.hidden_size, eps), LayerNorm(sizes.hidden_size, eps)),
    )
