"""The change that each layer makes to the hidden states (ShortGPT, Men et al. 2024, arXiv:2403.03853)."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from engine.compression.calibration import read_all
from engine.compression.stack import layers_of, replaced
from engine.evaluation.decoder import LoadedDecoder
from engine.progress import Report


class _Watched:
    """A layer, and the sum over tokens of the cosine between what goes in and what comes out."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.cosines = mx.array(0.0)

    def __call__(self, x: mx.array, *context: Any) -> mx.array:
        y: mx.array = self._layer(x, *context)
        before, after = x.astype(mx.float32), y.astype(mx.float32)
        lengths = mx.linalg.norm(before, axis=-1) * mx.linalg.norm(after, axis=-1)
        self.cosines = self.cosines + mx.sum(mx.sum(before * after, axis=-1) / mx.maximum(lengths, 1e-12))
        return y


def measure_influence(decoder: LoadedDecoder, windows: Sequence[Sequence[int]], report: Report) -> list[float]:
    """Block influence of each layer: 1 - the mean cosine of its input and output. 0 is a layer that does nothing."""
    layers = layers_of(decoder.model, decoder.name)
    watched = [_Watched(layer) for layer in layers]
    with replaced(layers, lambda place, _: watched[place]):
        read_all(decoder, windows, "measuring layers", lambda: [each.cosines for each in watched], report)
    num_tokens = sum(len(window) for window in windows)
    return [1.0 - _number(each.cosines) / num_tokens for each in watched]


def _number(array: mx.array) -> float:
    value: Any = array.item()
    return float(value)
