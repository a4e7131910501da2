"""Weights in the layout of the native kernels: panels, and the kernel that reads them. Knows no layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from engine.checkpoint.checkpoint import Quantization
from engine.native.kernels import Kernels

_GROUP_SIZES = (32, 64, 128)
_AFFINE_BITS = (2, 3, 4, 5, 6, 8)


class Multiplication(Protocol):
    """x @ weight.T + bias for each of some weights: (..., columns) to (..., rows)."""

    def __call__(
        self,
        x: mx.array,
        norm: mx.array | None = None,
        eps: float = 0.0,
        residual: mx.array | None = None,
        activation: str | None = None,
    ) -> list[mx.array]:
        """Multiply, and in one call normalise before, gate, and add after.

        norm, eps: x goes through a root-mean-square norm first; norm is (columns,)
        residual: added to the one result
        activation: of two weights, the one result is activation(first) * second
        """


def has_kernels(quantization: Quantization) -> bool:
    """True when there are kernels for this quantisation."""
    if quantization.mode == "affine":
        return quantization.bits in _AFFINE_BITS and quantization.group_size in _GROUP_SIZES
    return quantization.mode == "mxfp4" and quantization.group_size == 32


@dataclass(frozen=True, slots=True)
class PanelLayout:
    """The contents of an array of panels: (..., rows / 16, bytes) uint8 for a weight of (..., rows, columns).

    dtype: of dense values, or of the scales of quantised ones
    quantization: None where the values are dense
    """

    kernels: Kernels
    rows: int
    columns: int
    dtype: mx.Dtype
    quantization: Quantization | None

    def fits(self, other: "PanelLayout | None") -> bool:
        """True when two weights can be multiplied in one call."""
        return other is not None and self._arguments == other._arguments

    def panels(self, weight: mx.array, scales: mx.array | None = None, biases: mx.array | None = None) -> mx.array:
        """Panels of a dense weight, or of MLX's quantised arrays."""
        q = self.quantization
        if q is None or scales is None:
            return self.kernels.panels_of_dense(weight)
        return self.kernels.panels_of_quantized(weight, scales, biases, q.group_size, q.bits, q.mode)

    def multiplication(
        self, panels: Sequence[mx.array], rows: Sequence[int], biases: Sequence[mx.array | None]
    ) -> Multiplication:
        """The call that multiplies with weights of one layout, which may differ in their number of rows."""
        kernel = self.kernels.multiply_dense if self.quantization is None else self.kernels.multiply_quantized
        fixed = (list(panels), list(rows), list(biases), *self._arguments)

        def multiply(
            x: mx.array,
            norm: mx.array | None = None,
            eps: float = 0.0,
            residual: mx.array | None = None,
            activation: str | None = None,
        ) -> list[mx.array]:
            return kernel(x, *fixed, norm, eps, residual, activation)

        return multiply

    def multiply_chosen(self, x: mx.array, stack: mx.array, chosen: mx.array) -> mx.array:
        """x @ stack[chosen].T: x (..., 1 or n, 1, columns), chosen (..., n) to (..., n, 1, rows)."""
        dense = self.quantization is None
        kernel = self.kernels.multiply_dense_chosen if dense else self.kernels.multiply_quantized_chosen
        return kernel(x, stack, chosen, self.rows, *self._arguments)

    def take(self, panels: mx.array, ids: mx.array) -> mx.array:
        """Rows by number, in float32: (...) integers to (..., columns)."""
        kernel = self.kernels.take_dense if self.quantization is None else self.kernels.take_quantized
        return kernel(panels, ids, self.rows, *self._arguments)

    @property
    def _arguments(self) -> tuple[Any, ...]:
        q = self.quantization
        if q is None:
            return self.columns, self.dtype
        return self.columns, q.group_size, q.bits, q.mode, self.dtype
