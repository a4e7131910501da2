"""Decoders of gated DeltaNet layers with gated attention in some. Knows numbers; knows no configuration."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from engine.attention.batch import Batch
from engine.cache.spec import index_in_kind
from engine.layers.attention import HeadSizes
from engine.layers.causal import CausalLM, Pointwise
from engine.layers.delta import DeltaSizes, FusedGatedDeltaNet, GatedDeltaNet, PartlyFusedGatedDeltaNet
from engine.layers.gated_attention import GatedAttention
from engine.layers.linear import add_branch
from engine.layers.module import Module
from engine.layers.norm import RMSNorm, UnitOffsetRMSNorm
from engine.layers.rope import Rope
from engine.rope_spec import RopeSpec

LINEAR, FULL = "linear_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class DeltaHybridSpec:
    """Everything but the feed-forward layers.

    kinds: per layer "linear_attention" or "full_attention"
    offset_norms: norms multiply with 1 + weight; else 1 has been added to the stored weights
    fused_projections: gated DeltaNet layers have two joint projections instead of four
    fused_factors: they have three, of which the last is joint
    """

    vocab_size: int
    kinds: tuple[str, ...]
    heads: HeadSizes
    delta: DeltaSizes
    rope: RopeSpec
    eps: float
    activation: str
    attention_bias: bool
    tied: bool
    offset_norms: bool
    fused_projections: bool = False
    fused_factors: bool = False

    def norm(self, size: int) -> RMSNorm:
        """A norm of this model, but for those of gated DeltaNet layers."""
        return UnitOffsetRMSNorm(size, self.eps) if self.offset_norms else RMSNorm(size, self.eps)


class Block(Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)); the mixer is called what the checkpoint calls its kind."""

    def __init__(self, spec: DeltaHybridSpec, kind: str, index: int, rope: Rope, mlp: Pointwise) -> None:
        heads = spec.heads
        self._attends = kind == FULL
        if self._attends:
            norms = spec.norm(heads.head_dim), spec.norm(heads.head_dim)
            self.self_attn = GatedAttention(index, heads, rope, *norms, bias=spec.attention_bias)
        else:
            net = FusedGatedDeltaNet if spec.fused_projections else GatedDeltaNet
            net = PartlyFusedGatedDeltaNet if spec.fused_factors else net
            self.linear_attn = net(index, spec.delta, spec.eps, spec.activation, channels_last=not spec.offset_norms)
        self.mlp = mlp
        self.input_layernorm = spec.norm(heads.hidden_size)
        self.post_attention_layernorm = spec.norm(heads.hidden_size)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        mixer = self.self_attn if self._attends else self.linear_attn
        x = add_branch(x, mixer, self.input_layernorm, batch)
        return add_branch(x, self.mlp, self.post_attention_layernorm)


class DeltaHybridLM(CausalLM):
    """The whole model.

    mlp: makes the feed-forward part of a layer, by its number
    """

    def __init__(self, spec: DeltaHybridSpec, mlp: Callable[[int], Pointwise]) -> None:
        rope = Rope(spec.rope)
        layers = zip(spec.kinds, index_in_kind(spec.kinds), strict=True)
        super().__init__(
            spec.vocab_size,
            spec.heads.hidden_size,
            [Block(spec, kind, index, rope, mlp(layer)) for layer, (kind, index) in enumerate(layers)],
            spec.norm(spec.heads.hidden_size),
            tied=spec.tied,
            windows=[None] * spec.kinds.count(FULL),
            num_states=spec.kinds.count(LINEAR),
        )
