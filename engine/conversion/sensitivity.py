"""Measure what a model loses by errors in its weights: the Fisher information of each weight, over a text.

Where weights move by small independent errors d, the Kullback-Leibler divergence of the model's next-token
distribution grows by half the sum of F * d^2 per token, F being the mean square of the gradient of the log-likelihood
of tokens drawn from the model itself (LeCun et al. 1990 prune by a sum of this form). One backward pass over a window
gives an estimate: gradients of drawn tokens have no mean, so that the square of their sum is the sum of their squares.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from engine.checkpoint.tensors import Quantization
from engine.conversion.quantization import dequantize_values, quantize_values
from engine.evaluation.decoder import LoadedDecoder
from engine.layers.linear import Weight

_SEED = 7
_SLAB_VALUES = 1 << 24


class Sensitivity:
    """A model whose matrices are dense, and windows of text that it reads, one at a time.

    windows: token ids
    """

    def __init__(self, decoder: LoadedDecoder, windows: Sequence[Sequence[int]]) -> None:
        self._decoder = decoder
        self._windows = [list(window) for window in windows]
        self._modules: dict[str, Any] = dict(decoder.model.modules())

    def weight(self, path: str) -> mx.array:
        """A matrix as it is. path: of its module in the model."""
        module: Weight = self._modules[path]
        return module.weight

    def information(self, paths: Sequence[str]) -> dict[str, mx.array]:
        """The Fisher information of every weight of some matrices, per token; shaped as they are, float32."""
        weights = {path: self.weight(path) for path in paths}
        sums = {path: mx.zeros(weight.shape) for path, weight in weights.items()}
        num_tokens = 0
        try:
            for number, window in enumerate(self._windows):
                gradients = mx.grad(self._log_likelihood)(weights, window, mx.random.key(_SEED + number))
                sums = {path: sums[path] + mx.square(gradients[path].astype(mx.float32)) for path in sums}
                mx.eval(sums)
                num_tokens += len(window)
        finally:
            self._use(weights)
        return {path: total / num_tokens for path, total in sums.items()}

    def _log_likelihood(self, weights: dict[str, mx.array], window: list[int], key: mx.array) -> mx.array:
        """Of one token per place, drawn from what the model says there; summed."""
        self._use(weights)
        hidden = self._decoder.hidden(mx.array([window]), [len(window)])
        logits = self._decoder.model.logits(hidden).astype(mx.float32)
        drawn = mx.random.categorical(mx.stop_gradient(logits), key=key)
        chosen = mx.take_along_axis(logits, drawn[..., None], axis=-1)[..., 0]
        return mx.sum(chosen - mx.logsumexp(logits, axis=-1))

    def _use(self, weights: dict[str, mx.array]) -> None:
        for path, weight in weights.items():
            self._modules[path].weight = weight


def expected_loss(weight: mx.array, information: mx.array, how: Quantization) -> float:
    """The expected loss of quantising a matrix in this way, in nats per token."""
    rows = max(1, _SLAB_VALUES // max(1, weight.size // weight.shape[0]))
    total = 0.0
    for start in range(0, weight.shape[0], rows):
        values = weight[start : start + rows].astype(mx.float32)
        errors = mx.square(values - dequantize_values(quantize_values(values, how), how, mx.float32))
        total += float(np.array(mx.sum(errors * information[start : start + rows])))
    return total / 2
