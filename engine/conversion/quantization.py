"""Quantise and dequantise matrices in MLX's layout, and say what that takes. Knows no model and no file."""

import mlx.core as mx

from engine.checkpoint.tensors import Quantization
from engine.conversion.folder_writer import TensorSpec

Arrays = dict[str, mx.array]


def quantize_values(values: mx.array, how: Quantization) -> Arrays:
    """weight, scales and, in affine mode, biases of (..., columns) floats. Scales have the type of the values."""
    parts = mx.quantize(values, group_size=how.group_size, bits=how.bits, mode=how.mode)
    return dict(zip(("weight", "scales", "biases"), parts, strict=False))


def dequantize_values(arrays: Arrays, how: Quantization, dtype: mx.Dtype) -> mx.array:
    """The values; computed in float32."""
    scales, biases = arrays["scales"], arrays.get("biases")
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    values = mx.dequantize(
        arrays["weight"],
        scales,
        biases,
        group_size=how.group_size,
        bits=how.bits,
        mode=how.mode,
        dtype=mx.float32,
    )
    return values.astype(dtype)


def quantized_specs(path: str, shape: tuple[int, ...], how: Quantization, dtype: mx.Dtype) -> list[TensorSpec]:
    """The arrays that a matrix of this shape becomes. dtype: of the scales in affine mode."""
    *rows, columns = shape
    groups = (*rows, columns // how.group_size)
    scales = TensorSpec(f"{path}.scales", groups, dtype if how.mode == "affine" else mx.uint8)
    specs = [TensorSpec(f"{path}.weight", (*rows, columns * how.bits // 32), mx.uint32), scales]
    return [*specs, TensorSpec(f"{path}.biases", groups, dtype)] if how.mode == "affine" else specs


def num_quantized_bytes(shape: tuple[int, ...], how: Quantization, dtype: mx.Dtype) -> int:
    """Bytes of these arrays."""
    return sum(spec.num_bytes for spec in quantized_specs("x", shape, how, dtype))
