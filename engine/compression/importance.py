"""The contribution of each neuron and each group of heads to its layer's output.

The score of an input channel of a projection is the length of its activations over a text times the length of its
column of weights: Wanda's score (Sun et al. 2023, arXiv:2306.11695), summed over the column as in LLM-Pruner's groups
(Ma et al. 2023, arXiv:2305.11627).
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from engine.compression.calibration import read_all
from engine.compression.stack import layers_of, parts_replaced
from engine.evaluation.decoder import LoadedDecoder
from engine.evaluation.errors import ModelUnfit
from engine.layers.attention import SelfAttention
from engine.layers.linear import Norm, ResidualBranch
from engine.layers.mlp import GatedMLP
from engine.progress import Report

MLP, ATTENTION = "mlp", "self_attn"


class _Energy(ResidualBranch):
    """Sums the squares of each channel that goes into a projection. energy: (channels,) float32."""

    energy: mx.array

    def _add(self, inner: mx.array) -> mx.array:
        squares = mx.sum(mx.square(inner.astype(mx.float32)), axis=(0, 1))
        self.energy = squares if not hasattr(self, "energy") else self.energy + squares
        return inner


class _WatchedMLP(_Energy):
    def __init__(self, mlp: GatedMLP) -> None:
        self._mlp = mlp

    def __call__(self, x: mx.array) -> mx.array:
        return self._mlp.down_proj(self._add(self._mlp.inner(x)))

    def add_to(self, x: mx.array, norm: Norm, *context: Any) -> mx.array:
        return x + self._mlp.down_proj(self._add(self._mlp.inner(x, norm)))


class _WatchedAttention(_Energy):
    def __init__(self, attention: SelfAttention) -> None:
        self._attention = attention

    def __call__(self, x: mx.array, *context: Any) -> mx.array:
        return self._attention.o_proj(self._add(self._attention.attended(x, *context)))

    def add_to(self, x: mx.array, norm: Norm, *context: Any) -> mx.array:
        (rows,) = context
        return x + self._attention.o_proj(self._add(self._attention.attended(x, rows, norm)))


def require_parts(model: Any, name: str, *, mlp: bool, attention: bool) -> None:
    """Raise ModelUnfit unless every layer has the kind of feed-forward part and of attention that can be narrowed."""
    for layer in layers_of(model, name):
        if mlp and type(getattr(layer, MLP, None)) is not GatedMLP:
            raise ModelUnfit(name, "has other feed-forward layers than gated ones: only whole layers can be removed")
        if attention and type(getattr(layer, ATTENTION, None)) is not SelfAttention:
            raise ModelUnfit(name, "has attention of another kind: only layers and feed-forward width can be removed")


def measure_energy(
    decoder: LoadedDecoder,
    windows: Sequence[Sequence[int]],
    kept_layers: Sequence[int],
    report: Report,
    *,
    mlp: bool,
    attention: bool,
) -> tuple[list[mx.array], list[mx.array]]:
    """Sums of squares of what goes into each layer's down and output projection, in a model of the kept layers.

    Returns (inner_size,) and (num_heads * head_dim,) arrays, one per kept layer; empty lists for what is not asked.
    """
    layers = layers_of(decoder.model, decoder.name)
    whole = list(layers)
    layers[:] = [whole[layer] for layer in kept_layers]
    try:
        with (
            parts_replaced(layers if mlp else [], MLP, _WatchedMLP) as mlps,
            parts_replaced(layers if attention else [], ATTENTION, _WatchedAttention) as attentions,
        ):
            watched = [*mlps, *attentions]
            read_all(
                decoder,
                windows,
                "measuring widths",
                lambda: [each.energy for each in watched if hasattr(each, "energy")],
                report,
            )
    finally:
        layers[:] = whole
    return [each.energy for each in mlps], [each.energy for each in attentions]


def most_important(scores: mx.array, group_size: int, keep: int) -> list[int]:
    """The numbers of the `keep` groups of `group_size` channels with the largest sums of scores, in their order."""
    sums = mx.sum(scores.reshape(-1, group_size), axis=-1)
    order: Any = mx.argsort(-sums)[:keep].tolist()
    return sorted(order)
