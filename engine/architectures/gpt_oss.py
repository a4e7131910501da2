"""gpt-oss: attention sinks, windows in every other layer, and clamped mixture-of-experts MLPs (arXiv:2508.10925)."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import mlx.core as mx

from engine.attention.attend import AttentionOptions
from engine.config import ConfigReader
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.experts import GatedExperts
from engine.layers.linear import Linear
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class Attention(SelfAttention):
    """Self-attention in which one learned logit per head joins the softmax's denominator."""

    def __init__(self, layer: int, sizes: HeadSizes, rope: Rope, *, bias: bool) -> None:
        super().__init__(layer, sizes, rope, bias=bias, output_bias=bias)
        self.sinks = mx.zeros((sizes.num_heads,))

    @property
    def options(self) -> AttentionOptions:
        """Scale and sinks of the scores."""
        return replace(super().options, sinks=self.sinks)


class ClampedExperts(GatedExperts):
    """Experts whose gate is at most `limit` and whose up projection lies within it and is shifted by one."""

    def __init__(self, config: ConfigReader, num_experts: int, hidden_size: int) -> None:
        super().__init__(num_experts, hidden_size, config.count("intermediate_size"), "silu", bias=True)
        self._alpha = config.number("swiglu_alpha", 1.702)
        self._limit = config.number("swiglu_limit", 7.0)

    def gated(self, gate: mx.array, up: mx.array) -> mx.array:
        """The product inside."""
        gate = mx.minimum(gate, self._limit)
        up = mx.clip(up, -self._limit, self._limit)
        return gate * mx.sigmoid(self._alpha * gate) * (up + 1)


class SparseMLP(Module):
    """The experts with the largest router logits, weighted by a softmax over these alone."""

    def __init__(self, config: ConfigReader, hidden_size: int) -> None:
        num_experts = config.count("num_local_experts", 128)
        self.router = Linear(hidden_size, num_experts, bias=True)
        self.experts = ClampedExperts(config, num_experts, hidden_size)
        self._num_chosen = config.count("num_experts_per_tok", 4)

    def __call__(self, x: mx.array) -> mx.array:
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(tokens)
        chosen = mx.argpartition(-logits, self._num_chosen - 1, axis=-1)[:, : self._num_chosen]
        weights = mx.softmax(mx.take_along_axis(logits, chosen, axis=-1), axis=-1, precise=True)
        return mx.sum(self.experts(tokens, chosen) * weights[..., None], axis=1).reshape(x.shape)


# What the published models have, and what a configuration without rotary settings means.
_SCALING = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.choice("hidden_act", ("silu",), "silu")
        sizes = HeadSizes(*config.heads(64))
        num_layers = config.count("num_hidden_layers")
        rope = Rope(config.rope(sizes.head_dim, 150_000.0, default_scaling=_SCALING))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(num_layers)],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=_windows(config, num_layers),
        )

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Part the fused, interleaved gate and up projections, and bring matrices to (experts, out, in).

        Blocks that OpenAI has quantised are parted too, see engine.checkpoint.mxfp4_blocks; MLX folders have them
        parted already.
        """
        for name, array in tensors:
            yield from _parted(name, array)


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    eps = config.number("rms_norm_eps", 1e-5)
    return PreNormBlock(
        Attention(layer, sizes, rope, bias=config.flag("attention_bias", default=True)),
        SparseMLP(config, sizes.hidden_size),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )


def _windows(config: ConfigReader, num_layers: int) -> list[int | None]:
    """As layer_types says, else in layers 0, 2, 4 and so on."""
    window = config.count("sliding_window", 128)
    if config.has("layer_types"):
        return config.windows(num_layers)
    return [None if layer % 2 else window for layer in range(num_layers)]


def _parted(name: str, array: mx.array) -> Iterator[tuple[str, mx.array]]:
    prefix, _, kind = name.rpartition(".experts.")
    match kind:
        case "gate_up_proj":
            yield f"{prefix}.experts.gate_proj.weight", array[..., ::2].swapaxes(-1, -2)
            yield f"{prefix}.experts.up_proj.weight", array[..., 1::2].swapaxes(-1, -2)
        case "gate_up_proj_bias":
            yield f"{prefix}.experts.gate_proj.bias", array[..., ::2]
            yield f"{prefix}.experts.up_proj.bias", array[..., 1::2]
        case "gate_up_proj_blocks" | "gate_up_proj_scales":
            attribute, array = _repacked(kind, array)
            gate, up = mx.contiguous(array[:, ::2]), mx.contiguous(array[:, 1::2])
            mx.eval(gate, up)  # else the fused array stays in memory beside them
            yield f"{prefix}.experts.gate_proj.{attribute}", gate
            yield f"{prefix}.experts.up_proj.{attribute}", up
        case "down_proj_blocks" | "down_proj_scales":
            attribute, array = _repacked(kind, array)
            yield f"{prefix}.experts.down_proj.{attribute}", array
        case "down_proj":
            yield f"{prefix}.experts.down_proj.weight", array.swapaxes(-1, -2)
        case "down_proj_bias":
            yield f"{prefix}.experts.down_proj.bias", array
        case _:
            yield name, array


def _repacked(kind: str, array: mx.array) -> tuple[str, mx.array]:
    """Blocks of 16 bytes as MLX's words of eight values, (experts, rows, columns / 8); scales as they are."""
    if kind.endswith("_scales"):
        return "scales", array
    return "weight", array.view(mx.uint32).flatten(-2)
