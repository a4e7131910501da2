"""Decoders with attention over latent keys and mixtures of experts. Knows numbers; knows no configuration."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from engine.layers.causal import Pointwise, PreNormBlock
from engine.layers.latent_attention import LatentAttention, LatentSizes, parted_expansions, renamed_expansion
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope
from engine.layers.routed_mlp import ExpertsLM


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Everything but the feed-forward layers."""

    vocab_size: int
    num_layers: int
    num_experts: int
    attention: LatentSizes
    rope: Rope
    eps: float
    attention_bias: bool
    tied: bool


class LatentLM(ExpertsLM):
    """The whole model.

    mlp: makes the feed-forward part of a layer, by its number
    """

    def __init__(self, spec: LatentSpec, mlp: Callable[[int], Pointwise]) -> None:
        hidden_size = spec.attention.hidden_size
        self._num_experts = spec.num_experts
        self._sizes = spec.attention
        super().__init__(
            spec.vocab_size,
            hidden_size,
            [
                PreNormBlock(
                    LatentAttention(layer, spec.attention, spec.rope, bias=spec.attention_bias),
                    mlp(layer),
                    RMSNorm(hidden_size, spec.eps),
                    RMSNorm(hidden_size, spec.eps),
                )
                for layer in range(spec.num_layers)
            ],
            RMSNorm(hidden_size, spec.eps),
            tied=spec.tied,
        )

    def rename(self, name: str) -> str | None:
        """Experts make up one stack; expansions of latents have two parts."""
        return super().rename(renamed_expansion(name))

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Stack the experts and part the expansions of latents."""
        yield from super().convert(parted_expansions(tensors, self._sizes))
