"""Decoders whose every layer has a vector of its own for each token (Gemma 4), some with several streams (Gemma 3n).

Knows numbers; knows no configuration.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import mlx.core as mx

from engine.attention.batch import Batch
from engine.layers.activations import activate
from engine.layers.causal import Decoder, Pointwise
from engine.layers.linear import Embedding, Linear, Norm
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module
from engine.layers.norm import RMSNorm

_SMALLEST_SQUARE = 1e-5
Layer = Callable[..., mx.array]  # of x, the batch, and the layer's own vectors


@dataclass(frozen=True, slots=True)
class LayerInputSizes:
    """Sizes of the vectors that layers have for each token.

    vocab_size: rows of their table; tokens beyond it have row 0
    """

    hidden_size: int
    width: int
    vocab_size: int
    eps: float
    activation: str


class LayerInputBlock(Module):
    """Base of blocks that add a projection of their own vector, gated by the block's result."""

    def __init__(self, sizes: LayerInputSizes) -> None:
        self.per_layer_input_gate = Linear(sizes.hidden_size, sizes.width)
        self.per_layer_projection = Linear(sizes.width, sizes.hidden_size)
        self.post_per_layer_input_norm = RMSNorm(sizes.hidden_size, sizes.eps)
        self._gate_activation = sizes.activation

    def gated(self, x: mx.array, own: mx.array) -> mx.array:
        """x: (rows, length, hidden_size); own: (rows, length, width); returns the shape of x."""
        gate = activate(self._native, self._gate_activation, self.per_layer_input_gate(x), own)
        return self.post_per_layer_input_norm(self.per_layer_projection(gate))


class LayerInputDecoder(Decoder):
    """Embedding, blocks that are given their own vectors, final norm."""

    def __init__(
        self,
        embedding: Embedding,
        layers: Sequence[Layer],
        norm: Pointwise,
        embedding_scale: float,
        sizes: LayerInputSizes,
    ) -> None:
        super().__init__(embedding, [], norm, embedding_scale)
        self.layers = list(layers)
        width = len(layers) * sizes.width
        self.embed_tokens_per_layer = Embedding(sizes.vocab_size, width)
        self.per_layer_model_projection = Linear(sizes.hidden_size, width)
        self.per_layer_projection_norm = RMSNorm(sizes.width, sizes.eps)
        self._sizes = sizes

    def __call__(self, ids: mx.array, batch: Batch) -> mx.array:
        x = self.embedded(ids)
        return self.norm(self.through_layers(x, self.layer_inputs(ids, x), batch))

    def through_layers(self, x: mx.array, own: mx.array, batch: Batch) -> mx.array:
        """All blocks, one after the other. own: (rows, length, layers, width)."""
        for number, layer in enumerate(self.layers):
            x = layer(x, batch, own[:, :, number])
        return x

    def layer_inputs(self, ids: mx.array, x: mx.array) -> mx.array:
        """Every layer's vector of each token: of its table, and projected from the token vectors x.

        Returns (rows, length, layers, width).
        """
        sizes = self._sizes
        known = mx.where(ids < sizes.vocab_size, ids, 0)
        of_table = self.embed_tokens_per_layer(known) * sizes.width**0.5
        projected = self.per_layer_model_projection(x) * sizes.hidden_size**-0.5
        shape = (*ids.shape, len(self.layers), sizes.width)
        both: mx.array = self.per_layer_projection_norm(projected.reshape(shape)) + of_table.reshape(shape)
        return both * 2**-0.5


class AltUp(Module):
    """Predict all streams before a layer, and correct them by what the layer has made of one of them.

    num_streams: of them; active: the number of the one that the layer computes
    """

    def __init__(self, hidden_size: int, num_streams: int, active: int, eps: float) -> None:
        self.correct_output_scale = mx.zeros((hidden_size,))
        self.correction_coefs = Linear(num_streams, num_streams)
        self.prediction_coefs = Linear(num_streams, num_streams**2)
        self.modality_router = Linear(hidden_size, num_streams)
        self.router_norm = RMSNorm(hidden_size, eps)
        self._num_streams = num_streams
        self._active = active

    def predict(self, streams: mx.array) -> mx.array:
        """streams: (num_streams, rows, length, hidden_size); returns the same shape."""
        coefficients = self.prediction_coefs(self._routed(streams[self._active]))
        by_pair = coefficients.reshape(*coefficients.shape[:-1], self._num_streams, self._num_streams)
        weights = by_pair.transpose(2, 3, 0, 1)[..., None]  # of every stream for every predicted one
        return streams + mx.sum(weights * streams[None], axis=1)

    def correct(self, predictions: mx.array, activated: mx.array) -> mx.array:
        """predictions: (num_streams, rows, length, hidden_size); activated: the layer's result for the active one."""
        weights = self.correction_coefs(self._routed(activated)) + 1.0
        innovation = activated - predictions[self._active]
        return predictions + innovation * weights.transpose(2, 0, 1)[..., None]

    def _routed(self, x: mx.array) -> mx.array:
        return mx.tanh(self.modality_router(self.router_norm(x) * x.shape[-1] ** -1.0))


class Laurel(Module):
    """x plus a normed product of low rank of it (learned augmented residual, arXiv:2411.07501)."""

    def __init__(self, hidden_size: int, rank: int, eps: float) -> None:
        self.linear_left = Linear(hidden_size, rank)
        self.linear_right = Linear(rank, hidden_size)
        self.post_laurel_norm = RMSNorm(hidden_size, eps)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.post_laurel_norm(self.linear_right(self.linear_left(x)))


class SparseGatedMLP(GatedMLP):
    """A gated MLP of whose gates only the largest count (statistical top-k of the Spark Transformer, 2025).

    sparsity: share of the gates that becomes 0, if they are distributed normally
    """

    def __init__(self, hidden_size: int, inner_size: int, activation: str, sparsity: float) -> None:
        super().__init__(hidden_size, inner_size, activation)
        self._deviations = NormalDist().inv_cdf(sparsity)

    def inner(self, x: mx.array, norm: Norm | None = None) -> mx.array:
        """What stands between the projections, for norm(x): (..., inner_size)."""
        gate, up = self._widen.project(x, norm)
        mean, deviation = mx.mean(gate, axis=-1, keepdims=True), mx.std(gate, axis=-1, keepdims=True)
        return activate(self._native, self._activation, mx.maximum(gate - (mean + deviation * self._deviations), 0), up)


class AltUpDecoder(LayerInputDecoder):
    """Token vectors become streams, which blocks pass on and whose mean the final norm is given."""

    def __init__(
        self,
        embedding: Embedding,
        layers: Sequence[Layer],
        norm: Pointwise,
        embedding_scale: float,
        sizes: LayerInputSizes,
        num_streams: int,
    ) -> None:
        super().__init__(embedding, layers, norm, embedding_scale, sizes)
        hidden_size = sizes.hidden_size
        self.altup_projections = [Linear(hidden_size, hidden_size) for _ in range(1, num_streams)]
        self.altup_unembed_projections = [Linear(hidden_size, hidden_size) for _ in range(1, num_streams)]

    def __call__(self, ids: mx.array, batch: Batch) -> mx.array:
        x = self.embedded(ids)
        streams = mx.stack([x, *(_as_large_as(x, project(x)) for project in self.altup_projections)])
        first, *others = self.through_layers(streams, self.layer_inputs(ids, x), batch)
        pairs = zip(self.altup_unembed_projections, others, strict=True)
        return self.norm(mx.mean(mx.stack([first, *(_as_large_as(first, back(x)) for back, x in pairs)]), axis=0))


def _as_large_as(x: mx.array, y: mx.array) -> mx.array:
    """y, scaled to the root mean square of x."""
    squares = mx.maximum(mx.mean(mx.square(y), axis=-1, keepdims=True), _SMALLEST_SQUARE)
    return y * mx.sqrt(mx.mean(mx.square(x), axis=-1, keepdims=True)) / mx.sqrt(squares)


def mean_of_two(x: mx.array, y: mx.array) -> mx.array:
    """Their sum, as large as each of them is if they are independent."""
    return (x + y) / math.sqrt(2)
