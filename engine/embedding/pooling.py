"""From the vectors of a text's tokens to one of the text. Knows arrays and settings; knows no model and no request."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import mlx.core as mx

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.load import load_tensors
from engine.device import Device
from engine.embedding.sentence_settings import DenseSettings, PoolingMode, SentenceSettings
from engine.errors import CheckpointCorrupt
from engine.layers.activations import ACTIVATIONS
from engine.layers.linear import Linear

Pool = Callable[[mx.array, mx.array], mx.array]


class Pooling:
    """Pools, and applies the layers over the pooled vector. Sums are taken in float32.

    hidden_size: of a token's vector; size: of a text's
    """

    def __init__(self, settings: SentenceSettings, hidden_size: int, checkpoint: Checkpoint, device: Device) -> None:
        self._pools = [_POOLS[mode] for mode in settings.modes]
        self._pools_prompt = settings.pools_prompt
        self._dense = [_Dense(each, checkpoint, device) for each in settings.dense]
        self.size = hidden_size * len(settings.modes)
        for dense in settings.dense:
            if dense.input_size != self.size:
                raise CheckpointCorrupt("modules.json", f"a layer of {dense.input_size} inputs follows {self.size}")
            self.size = dense.output_size

    def __call__(self, hidden: mx.array, lengths: Sequence[int], prompt_lengths: Sequence[int]) -> mx.array:
        """Vectors of the texts, not brought to length 1.

        hidden: (batch, length, hidden_size), padded on the right; lengths: tokens of each text
        prompt_lengths: tokens at each text's beginning that are a prompt's
        Returns (batch, size) float32.
        """
        skipped = [0] * len(lengths) if self._pools_prompt else prompt_lengths
        places = mx.arange(hidden.shape[1])
        mask = (places < mx.array(list(lengths))[:, None]) & (places >= mx.array(list(skipped))[:, None])
        hidden = mx.where(mask[..., None], hidden.astype(mx.float32), 0)
        pooled = mx.concatenate([pool(hidden, mask) for pool in self._pools], axis=-1)
        for dense in self._dense:
            pooled = dense(pooled)
        return pooled


class _Dense:
    """One layer over the pooled vector."""

    def __init__(self, settings: DenseSettings, checkpoint: Checkpoint, device: Device) -> None:
        self._linear = Linear(settings.input_size, settings.output_size, bias=settings.bias)
        self._activation = ACTIVATIONS[settings.activation] if settings.activation else None
        arrays = dict(load_tensors(replace(checkpoint, tensors=dict(settings.tensors), quantization={})))
        for name, expected in self._linear.arrays().items():
            array = arrays.get(f"linear.{name}")
            if array is None or array.shape != expected.shape:
                raise CheckpointCorrupt("model.safetensors", f"linear.{name} of shape {expected.shape} is missing")
            setattr(self._linear, name, array)
        self._linear.prepare(device)
        mx.eval(list(self._linear.arrays().values()))

    def __call__(self, x: mx.array) -> mx.array:
        x = self._linear(x).astype(mx.float32)
        return x if self._activation is None else self._activation(x)


def _first(hidden: mx.array, mask: mx.array) -> mx.array:
    return _at(hidden, mx.argmax(mask, axis=1))


def _last(hidden: mx.array, mask: mx.array) -> mx.array:
    places = mx.arange(hidden.shape[1])
    return _at(hidden, mx.argmax(mx.where(mask, places, -1), axis=1))


def _at(hidden: mx.array, places: mx.array) -> mx.array:
    return mx.take_along_axis(hidden, places[:, None, None], axis=1)[:, 0]


def _max(hidden: mx.array, mask: mx.array) -> mx.array:
    return mx.max(mx.where(mask[..., None], hidden, -mx.inf), axis=1)


def _mean(hidden: mx.array, mask: mx.array) -> mx.array:
    return mx.sum(hidden, axis=1) / _count(mask)


def _mean_of_root(hidden: mx.array, mask: mx.array) -> mx.array:
    return mx.sum(hidden, axis=1) / mx.sqrt(_count(mask))


def _weighted_mean(hidden: mx.array, mask: mx.array) -> mx.array:
    """Later tokens weigh more: the first 1, the second 2 (SGPT, arXiv:2202.08904)."""
    weights = mx.where(mask, mx.arange(1, hidden.shape[1] + 1), 0)[..., None].astype(mx.float32)
    return mx.sum(hidden * weights, axis=1) / mx.maximum(mx.sum(weights, axis=1), 1)


def _count(mask: mx.array) -> mx.array:
    return mx.maximum(mx.sum(mask, axis=1, keepdims=True), 1).astype(mx.float32)


_POOLS: dict[PoolingMode, Pool] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_of_root,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
