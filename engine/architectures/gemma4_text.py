"""Gemma 4, text: two sizes of heads, last layers that read earlier keys, and vectors per layer or experts in some."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.configs.gemma4 import Gemma4Spec, read_gemma4
from engine.configs.windowed import FULL, SLIDING, is_of_reader
from engine.layers.attention import NormedAttention, ReadingAttention, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.experts import WeightedExperts, stack_experts
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.per_layer_inputs import LayerInputBlock, LayerInputDecoder
from engine.layers.rope import Rope
from engine.layers.router import ScaledRouter
from engine.layers.shared_experts import split_experts


class Block(Module):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x))), times a number of the layer's own."""

    def __init__(self, spec: Gemma4Spec, self_attn: SelfAttention, inner_size: int) -> None:
        size, eps, mixture = spec.hidden_size, spec.eps, spec.experts
        self.self_attn = self_attn
        self.mlp = GatedMLP(size, inner_size, spec.activation)
        self.input_layernorm = RMSNorm(size, eps)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.pre_feedforward_layernorm = RMSNorm(size, eps)
        self.post_feedforward_layernorm = RMSNorm(size, eps)
        self.layer_scalar = mx.ones((1,))
        self._mixes = mixture is not None
        if mixture is not None:
            self.router = ScaledRouter(size, mixture.num_experts, mixture.num_chosen, eps)
            self.experts = WeightedExperts(mixture.num_experts, size, mixture.inner_size, spec.activation)
            self.post_feedforward_layernorm_1 = RMSNorm(size, eps)
            self.pre_feedforward_layernorm_2 = RMSNorm(size, eps)
            self.post_feedforward_layernorm_2 = RMSNorm(size, eps)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        return self.with_branches(x, batch) * self.layer_scalar

    def with_branches(self, x: mx.array, batch: Batch) -> mx.array:
        """x with attention and feed-forward part."""
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), batch))
        inner = self.mlp(self.pre_feedforward_layernorm(x))
        if self._mixes:
            inner = self.post_feedforward_layernorm_1(inner) + self._mixed(x)
        return x + self.post_feedforward_layernorm(inner)

    def _mixed(self, x: mx.array) -> mx.array:
        tokens = x.reshape(-1, x.shape[-1])
        mixed = self.experts(self.pre_feedforward_layernorm_2(tokens), *self.router(tokens))
        return self.post_feedforward_layernorm_2(mixed).reshape(x.shape)


class InputBlock(Block, LayerInputBlock):
    """A block that adds a projection of its own vector of each token."""

    def __init__(self, spec: Gemma4Spec, self_attn: SelfAttention, inner_size: int) -> None:
        assert spec.inputs is not None  # asked before
        Block.__init__(self, spec, self_attn, inner_size)
        LayerInputBlock.__init__(self, spec.inputs)

    def __call__(self, x: mx.array, batch: Batch, own: mx.array) -> mx.array:  # type: ignore[override]  # one more
        x = self.with_branches(x, batch)
        return (x + self.gated(x, own)) * self.layer_scalar


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        spec = read_gemma4(config)
        kind = Block if spec.inputs is None else InputBlock
        layers = [kind(spec, *parts) for parts in zip(_attention(spec), _inner_sizes(spec), strict=True)]
        self._num_own = spec.num_own
        self._num_experts = spec.experts.num_experts if spec.experts is not None else 0
        scale = spec.hidden_size**0.5
        super().__init__(
            spec.vocab_size,
            spec.hidden_size,
            layers,
            norm := RMSNorm(spec.hidden_size, spec.eps),
            tied=spec.tied,
            windows=[spec.window if kind == SLIDING else None for kind in spec.kinds[: spec.num_own]],
            readers=spec.sources[spec.num_own :],
            embedding_scale=scale,
            logit_softcap=spec.logit_softcap,
        )
        if spec.inputs is not None:
            self.model = LayerInputDecoder(self.model.embed_tokens, layers, norm, scale, spec.inputs)

    def rename(self, name: str) -> str | None:
        """Layers that read the keys of others have none of their own, whatever the file has."""
        return None if is_of_reader(name, self._num_own) else name

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Stack the experts, however the checkpoint lists them."""
        stacked = stack_experts(split_experts(tensors), self._num_experts, {})
        yield from super().convert(
            (name.replace(".switch_mlp.", ".experts.switch_glu."), each) for name, each in stacked
        )


def _attention(spec: Gemma4Spec) -> Iterator[SelfAttention]:
    ropes = {kind: Rope(rope) for kind, rope in spec.ropes.items()}
    for layer, (kind, source) in enumerate(zip(spec.kinds, spec.sources, strict=True)):
        heads, rope, eps, bias = spec.heads[kind], ropes[kind], spec.eps, spec.attention_bias
        if source == layer:
            shared = spec.keys_are_values and kind == FULL
            yield NormedAttention(layer, heads, rope, eps, bias=bias, keys_are_values=shared)
        else:
            yield ReadingAttention(source, heads, rope, eps, bias=bias)


def _inner_sizes(spec: Gemma4Spec) -> list[int]:
    wide = 2 * spec.inner_size if spec.wide_readers else spec.inner_size
    return [spec.inner_size if source == layer else wide for layer, source in enumerate(spec.sources)]
