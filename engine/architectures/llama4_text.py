"""Llama 4, text: chunked attention with positions, full attention without, experts whose inputs are weighted."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, Pointwise
from engine.layers.experts import GatedExperts
from engine.layers.linear import Linear, add_branch
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module
from engine.layers.norm import PlainRMSNorm, RMSNorm
from engine.layers.position import PositionScaling
from engine.layers.rope import Rope

_JOINED = ".experts.gate_up_proj"


class SparseMLP(Module):
    """The experts with the largest router logits, applied to the input times the logit's sigmoid, and a shared one."""

    def __init__(self, hidden_size: int, inner_size: int, activation: str, num_experts: int, num_chosen: int) -> None:
        self.router = Linear(hidden_size, num_experts)
        self.experts = GatedExperts(num_experts, hidden_size, inner_size, activation)
        self.shared_expert = GatedMLP(hidden_size, inner_size, activation)
        self._num_chosen = num_chosen

    def __call__(self, x: mx.array) -> mx.array:
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(tokens)
        chosen = mx.stop_gradient(mx.argpartition(-logits, self._num_chosen - 1, axis=-1)[:, : self._num_chosen])
        scores = mx.sigmoid(mx.take_along_axis(logits, chosen, axis=-1).astype(mx.float32)).astype(x.dtype)
        mixed = self.experts.weighted_inputs(tokens[:, None] * scores[..., None], chosen)
        return (mx.sum(mixed, axis=1) + self.shared_expert(tokens)).reshape(x.shape)


class Block(Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, attention: SelfAttention, feed_forward: Pointwise, hidden_size: int, eps: float) -> None:
        self.self_attn = attention
        self.feed_forward = feed_forward
        self.input_layernorm = RMSNorm(hidden_size, eps)
        self.post_attention_layernorm = RMSNorm(hidden_size, eps)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = add_branch(x, self.self_attn, self.input_layernorm, batch)
        return add_branch(x, self.feed_forward, self.post_attention_layernorm)


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads(128))
        num_layers, eps = config.count("num_hidden_layers"), config.number("rms_norm_eps", 1e-5)
        rope = Rope(config.rope(sizes.head_dim, 500_000.0), interleaved=True)
        rotated, sparse = _rotated(config, num_layers), _sparse(config, num_layers)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [
                Block(
                    _attention(config, layer, sizes, rope if rotated[layer] else None),
                    _feed_forward(config, sizes.hidden_size, sparse=layer in sparse),
                    sizes.hidden_size,
                    eps,
                )
                for layer in range(num_layers)
            ],
            RMSNorm(sizes.hidden_size, eps),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=_windows(config, rotated),
            chunked=True,
        )

    def rename(self, name: str) -> str | None:
        """The gates of experts speak for the up projections."""
        name = name.replace(_JOINED, ".experts.gate_proj.weight")
        return f"{name}.weight" if name.endswith(".experts.down_proj") else name

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Experts as (experts, out, in), gates and up projections apart; MLX has them so."""
        for name, array in tensors:
            if name.endswith(_JOINED):
                for part, half in zip(("gate_proj", "up_proj"), mx.split(array, 2, axis=-1), strict=True):
                    yield name.replace("gate_up_proj", f"{part}.weight"), half.swapaxes(-1, -2)
            elif name.endswith(".experts.down_proj"):
                yield f"{name}.weight", array.swapaxes(-1, -2)
            else:
                yield name, array


def _rotated(config: ConfigReader, num_layers: int) -> list[bool]:
    """`no_rope_layers` holds 1 where a layer has positions, against its name; else every fourth has none."""
    interval = config.count("no_rope_layer_interval", 4)
    listed = config.numbers("no_rope_layers", num_layers)
    return [(layer + 1) % interval != 0 for layer in range(num_layers)] if listed is None else list(map(bool, listed))


def _sparse(config: ConfigReader, num_layers: int) -> list[int]:
    step = config.count("interleave_moe_layer_step", 1)
    return config.integers("moe_layers") if config.has("moe_layers") else list(range(step - 1, num_layers, step))


def _windows(config: ConfigReader, rotated: list[bool]) -> list[int | None]:
    kinds = ["chunked_attention" if each else "full_attention" for each in rotated]
    if config.has("layer_types"):
        kinds = config.words("layer_types", ("chunked_attention", "full_attention"), len(rotated), "full_attention")
    size = config.count("attention_chunk_size", 8192)
    return [size if kind == "chunked_attention" else None for kind in kinds]


def _attention(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope | None) -> SelfAttention:
    bias, eps = config.flag("attention_bias", default=False), config.number("rms_norm_eps", 1e-5)
    # The norm has no weight, so it may stand before the rotation as well as behind it.
    norm = PlainRMSNorm(eps) if config.flag("use_qk_norm", default=True) and rope is not None else None
    tuned = config.flag("attn_temperature_tuning", default=True)
    scaling = PositionScaling(config.number("attn_scale", 0.1), config.count("floor_scale", 8192), shift=1)
    return SelfAttention(
        layer,
        sizes,
        rope,
        bias=bias,
        output_bias=bias,
        q_norm=norm,
        k_norm=norm,
        scaling=scaling if tuned and rope is None else None,
    )


def _feed_forward(config: ConfigReader, hidden_size: int, *, sparse: bool) -> SparseMLP | GatedMLP:
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    dense_size, inner_size = config.count("intermediate_size_mlp", 16384), config.count("intermediate_size", 8192)
    num_experts, num_chosen = config.count("num_local_experts", 16), config.count("num_experts_per_tok", 1)
    if sparse:
        return SparseMLP(hidden_size, inner_size, activation, num_experts, num_chosen)
    return GatedMLP(hidden_size, dense_size, activation)
