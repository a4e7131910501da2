"""A model as a function of its weights: float arrays in, logits out, in operations that gradients flow through.

Kernels have no gradients and quantised weights no slopes, so weights are expanded to float32 and the kernels stay off.
The same architecture files compute: before a pass the arrays are put into the modules and prepared, in the wanted
precision.
"""

from engine.device import Device  # isort: skip  # first: loads the BLAS before mlx

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx

from engine.attention.uncached_batch import UncachedBatch
from engine.layers.module import Module
from engine.model import CausalModel

Arrays = dict[str, mx.array]


def float_device(device: Device) -> Device:
    """The device without kernels and without quantised weights, in float32."""
    return replace(device, dtype=mx.float32, kernels="off", native=None, expands=True)


class FloatModel:
    """A model whose weights are given with each pass.

    precision: of the computation; weights may be kept in a better one
    """

    def __init__(self, model: CausalModel, device: Device, precision: mx.Dtype) -> None:
        self._model = model
        self._modules: dict[str, Module] = dict(model.modules())
        self._device = replace(float_device(device), dtype=precision)

    def parameters(self) -> Arrays:
        """The arrays that the model holds now, by their names in it."""
        return self._model.parameters()

    def logits(self, weights: Mapping[str, mx.array], ids: mx.array) -> mx.array:
        """ids: (rows, length) integers; returns (rows, length, vocab_size) float32."""
        self.put(weights)
        num_rows, length = ids.shape
        hidden = self._model(ids, UncachedBatch(self._model.cache, [length] * num_rows))
        return self._model.logits(hidden).astype(mx.float32)

    def put(self, weights: Mapping[str, mx.array]) -> None:
        """Have the model compute with these weights."""
        for name, array in weights.items():
            path, _, attribute = name.rpartition(".")
            module: Any = self._modules[path]
            setattr(module, attribute, array)
        for module in self._modules.values():
            module.prepare(self._device)
