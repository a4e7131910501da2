"""Linear layers and embeddings, dense or quantised, alone or fused: the seam to the kernels' products."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from engine.checkpoint.checkpoint import Quantization
from engine.device import Device
from engine.layers.activations import ACTIVATIONS
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
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


class Weight(Module):
    """A matrix of `rows` times `columns`, or a stack of them, dense or quantised as MLX does it.

    weight: (..., rows, columns) in a float type; quantised, (..., rows, columns * bits / 32) uint32
    scales, biases: (..., rows, columns / group_size), where it is quantised; biases in affine mode only
    With native kernels, `weight` holds all of it in panels (engine.layers.linear).
    """

    weight: mx.array
    scales: mx.array
    biases: mx.array | None = None

    def __init__(self, *shape: int) -> None:
        self._quantization: Quantization | None = None
        self._panels: PanelLayout | None = None
        self._shape = shape
        self.weight = mx.zeros(shape)

    def expect_quantized(self, quantization: Quantization) -> None:
        """Expect the arrays of this quantisation at loading instead of a dense weight."""
        *rows, columns = self.weight.shape
        groups = columns // quantization.group_size
        self._quantization = quantization
        self.weight = mx.zeros((*rows, columns * quantization.bits // 32), mx.uint32)
        self.scales = mx.zeros((*rows, groups))
        if quantization.mode == "affine":
            self.biases = mx.zeros((*rows, groups))

    @property
    def quantization(self) -> Quantization | None:
        """The quantisation of its loaded arrays; None where they are dense."""
        return self._quantization

    @property
    def columns(self) -> int:
        """Values in a row."""
        return self._shape[-1]

    def quantize_anew(self, quantization: Quantization) -> None:
        """Quantise loaded values, dense or quantised before, in this way; at once, so that the old ones can go."""
        values = self.weight
        if self._quantization is not None:
            biases = None if self.biases is None else self.biases.astype(mx.float32)
            scales = self.scales if biases is None else self.scales.astype(mx.float32)
            q = self._quantization
            values = mx.dequantize(
                self.weight, scales, biases, group_size=q.group_size, bits=q.bits, mode=q.mode, dtype=mx.float32
            ).astype(mx.float16)
        q = quantization
        self.weight, self.scales, *rest = mx.quantize(values, group_size=q.group_size, bits=q.bits, mode=q.mode)
        self.biases = rest[0] if rest else None
        self._quantization = quantization
        mx.eval(self.weight, self.scales, rest)

    def prepare(self, device: Device) -> None:
        """Bring loaded arrays into the form this device computes with."""
        if device.native is not None:
            self._lay_out(device.native)
        elif self._quantization is None:
            self.weight = device.in_precision(self.weight)
        elif device.expands:
            self._expand()
        elif self.biases is not None:
            self.scales = device.in_precision(self.scales)
            self.biases = device.in_precision(self.biases)

    def multiply(self, x: mx.array) -> mx.array:
        """x @ weight.T: (..., columns) to (..., rows)."""
        if self._panels is not None:
            return self._panels.multiplication([self.weight], [self._panels.rows], [None])(x)[0]
        q = self._quantization
        if q is None:
            return x @ self.weight.T
        return mx.quantized_matmul(
            x, self.weight, self.scales, self.biases, group_size=q.group_size, bits=q.bits, mode=q.mode
        )

    def multiply_chosen(self, x: mx.array, chosen: mx.array) -> mx.array:
        """x @ weight[chosen].T, for a stack: x (..., 1 or n, 1, columns), chosen (..., n) to (..., n, 1, rows)."""
        if self._panels is not None:
            return self._panels.multiply_chosen(x, self.weight, chosen)
        q = self._quantization
        if q is None:
            return mx.gather_mm(x, self.weight.swapaxes(-1, -2), rhs_indices=chosen)
        return mx.gather_qmm(
            x,
            self.weight,
            self.scales,
            self.biases,
            rhs_indices=chosen,
            group_size=q.group_size,
            bits=q.bits,
            mode=q.mode,
        )

    def take(self, ids: mx.array) -> mx.array:
        """Rows by number: (...) integers to (..., columns)."""
        if self._panels is not None:
            return self._panels.take(self.weight, ids)
        q = self._quantization
        if q is None:
            return self.weight[ids]
        biases = None if self.biases is None else self.biases[ids]
        return mx.dequantize(
            self.weight[ids], self.scales[ids], biases, group_size=q.group_size, bits=q.bits, mode=q.mode
        )

    def _lay_out(self, kernels: Kernels) -> None:
        # Each weight is laid out at once, so that only one of them is in memory twice.
        if self._quantization is not None and not has_kernels(self._quantization):
            self._expand()
        q = self._quantization
        rows, columns = self._shape[-2:]
        if q is None:
            self._panels = PanelLayout(kernels, rows, columns, self.weight.dtype, None)
            self.weight = self._panels.panels(self.weight)
        else:
            self._panels = PanelLayout(kernels, rows, columns, self.scales.dtype, q)
            self.weight = self._panels.panels(self.weight, self.scales, self.biases)
            self.biases = None
            del self.scales
        mx.eval(self.weight)

    def _expand(self) -> None:
        # MLX's quantised product on x86 runs at about 2 GFLOP/s; a float32 copy with a BLAS is the quicker exact form.
        if self.biases is not None:
            self.scales, self.biases = self.scales.astype(mx.float32), self.biases.astype(mx.float32)
        rows = mx.arange(self.weight.shape[0])
        self.weight = self.take(rows).astype(mx.float32)
        self._quantization = self.biases = None
        del self.scales


class Linear(Weight):
    """y = x @ weight.T + bias, from `input_size` to `output_size` features."""

    bias: mx.array

    def __init__(self, input_size: int, output_size: int, *, bias: bool = False) -> None:
        super().__init__(output_size, input_size)
        self._biased = bias
        self._call: Multiplication | None = None
        if bias:
            self.bias = mx.zeros((output_size,))

    def prepare(self, device: Device) -> None:
        """Bring loaded arrays into the form this device computes with."""
        super().prepare(device)
        if self._biased:
            self.bias = device.in_precision(self.bias)
        self._call = multiplication([self])

    def __call__(self, x: mx.array) -> mx.array:
        if self._call is not None:
            return self._call(x)[0]
        y = self.multiply(x)
        return y + self.bias if self._biased else y

    @property
    def layout(self) -> PanelLayout | None:
        """The layout of its weight for the native kernels; None without them."""
        return self._panels

    @property
    def optional_bias(self) -> mx.array | None:
        """The bias, where it has one."""
        return self.bias if self._biased else None


def multiplication(linears: Sequence[Linear]) -> Multiplication | None:
    """The one call for several projections of one input; None where their weights do not lie in one layout."""
    layouts = [linear.layout for linear in linears if linear.layout is not None]
    if len(layouts) < len(linears) or not all(layout.fits(layouts[0]) for layout in layouts):
        return None
    rows = [layout.rows for layout in layouts]
    panels, biases = [linear.weight for linear in linears], [linear.optional_bias for linear in linears]
    return layouts[0].multiplication(panels, rows, biases)


class Embedding(Weight):
    """Token vectors: (rows, columns) is (vocabulary, hidden size). Also serves as a tied output head."""

    def __call__(self, ids: mx.array) -> mx.array:
        return self.take(ids)


Norm = Callable[[mx.array], mx.array]


class ResidualBranch(Module):
    """Base of the parts of a block that add their result to the block's input by themselves."""

    def add_to(self, x: mx.array, norm: Norm, *context: Any) -> mx.array:
        """x + self(norm(x), *context)."""
        raise NotImplementedError


def add_branch(x: mx.array, branch: Callable[..., mx.array], norm: Norm, *context: Any) -> mx.array:
    """x + branch(norm(x), *context)."""
    if isinstance(branch, ResidualBranch):
        return branch.add_to(x, norm, *context)
    return x + branch(norm(x), *context)


class FusedProjections:
    """Projections of one input, in one call where their weights lie in one layout.

    They are looked at when they are first used: their weights are then where they stay.
    """

    def __init__(self, *linears: Linear) -> None:
        self._linears = linears
        self._call: Multiplication | None = None
        self._looked = False

    def project(self, x: mx.array, norm: Norm | None = None) -> list[mx.array]:
        """Each projection of norm(x). x: (..., columns); returns (..., rows) for each."""
        call = self._one_call()
        if call is not None and isinstance(norm, RMSNorm):
            return call(x, norm.factors, norm.eps)
        x = x if norm is None else norm(x)
        return [linear(x) for linear in self._linears] if call is None else call(x)

    def gate(self, x: mx.array, activation: str, norm: Norm | None = None) -> mx.array:
        """activation(first(norm(x))) * second(norm(x)); activation is a name in ACTIVATIONS."""
        call = self._one_call()
        if call is not None and isinstance(norm, RMSNorm):
            return call(x, norm.factors, norm.eps, activation=activation)[0]
        x = x if norm is None else norm(x)
        if call is not None:
            return call(x, activation=activation)[0]
        first, second = self._linears
        return ACTIVATIONS[activation](first(x)) * second(x)

    def add_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the one projection of x."""
        call = self._one_call()
        return residual + self._linears[0](x) if call is None else call(x, residual=residual)[0]

    def _one_call(self) -> Multiplication | None:
        if not self._looked:
            self._call, self._looked = multiplication(self._linears), True
        return self._call
