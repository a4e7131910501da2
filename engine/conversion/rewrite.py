"""Write a checkpoint anew: each matrix dense, quantised or as it was, in a type, some rows at a time.

Memory is that of the largest matrix that has to be seen whole, and of a few megabytes of rows for the others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.mlx_quantization import settings_of
from engine.checkpoint.tensors import Quantization
from engine.conversion.folder_writer import SHARD_BYTES, FolderWriter, TensorSpec, writing
from engine.conversion.gguf_files import gguf_files
from engine.conversion.plan import FLOATS, Matrix, Plan
from engine.conversion.quantization import Arrays, dequantize_values, quantize_values, quantized_specs
from engine.conversion.side_files import side_files
from engine.errors import NotFinite
from engine.progress import Progress, Report

Decide = Callable[[Matrix], Quantization | None]


@dataclass(frozen=True, slots=True)
class Written:
    """The sizes of the folder that was written. Bytes are of tensors.

    num_values: parameters, quantised or not; num_quantized: modules that are quantised
    kept: paths of matrices that could have been quantised by their kind, and stay dense
    """

    num_bytes: int
    num_values: int
    num_quantized: int
    kept: tuple[str, ...]

    @property
    def bits_per_weight(self) -> float:
        """Bits per parameter, scales included."""
        return 8 * self.num_bytes / max(1, self.num_values)


def rewrite(
    plan: Plan,
    target: Path,
    decide: Decide,
    *,
    dtype: mx.Dtype | None = None,
    report: Report | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Write the planned folder to `target`.

    decide: how each matrix shall be quantised; None for a dense one
    dtype: of what is dense, and of scales; None leaves them as they are
    Raises CheckpointError and ConversionError.
    """
    chosen = {matrix.name: decide(matrix) for matrix in plan.matrices}
    specs = [spec for matrix in plan.matrices for spec in _specs(matrix, chosen[matrix.name], dtype)]
    quantized = {matrix.path: how for matrix in plan.matrices if (how := chosen[matrix.name]) is not None}
    config = new_config(plan.checkpoint, quantized, dtype)
    files = files_of(plan.checkpoint)
    with writing(target, specs, config, files, made_by="mlx" if quantized else "pt", shard_bytes=shard_bytes) as writer:
        _write_units(plan, writer, chosen, dtype, report)
    return Written(
        num_bytes=writer.total_bytes,
        num_values=sum(prod(matrix.shape) for matrix in plan.matrices),
        num_quantized=len(quantized),
        kept=tuple(m.path for m in plan.matrices if m.module is not None and m.path not in quantized),
    )


def files_of(checkpoint: Checkpoint) -> Mapping[str, Path | bytes]:
    """The files that go with the weights."""
    return side_files(checkpoint.path) if checkpoint.gguf_metadata is None else gguf_files(checkpoint)


def new_config(checkpoint: Checkpoint, quantized: Mapping[str, Quantization], dtype: mx.Dtype | None) -> dict[str, Any]:
    """config.json of the new folder: the old one, how modules are quantised, and the type."""
    config = {key: value for key, value in checkpoint.config.items() if not key.startswith("quantization")}
    if checkpoint.gguf_metadata is not None:
        config = checkpoint.generation_config | config
    if dtype is not None:
        key = "dtype" if "dtype" in config else "torch_dtype"
        config[key] = str(dtype).removeprefix("mlx.core.")
    if quantized:
        settings = settings_of(quantized)
        # mlx-lm writes both; transformers and the hub look at the second.
        config |= {"quantization": settings, "quantization_config": settings}
    return config


def _write_units(
    plan: Plan,
    writer: FolderWriter,
    chosen: Mapping[str, Quantization | None],
    dtype: mx.Dtype | None,
    report: Report | None,
) -> None:
    done, total = 0, sum(unit.num_bytes for unit in plan.units)
    for unit in plan.units:
        for matrix, first_row, arrays in plan.slabs(unit):
            how = chosen[matrix.name]
            for name, array in _converted(matrix, arrays, how, dtype).items():
                writer.write(matrix.name if how is None else f"{matrix.path}.{name}", array, first_row)
            if report is not None:
                share = unit.num_bytes * first_row // max(1, matrix.shape[0] if matrix.shape else 1)
                layer = 0 if matrix.layer is None else matrix.layer + 1
                report(_progress(done + share, total, layer, plan))
        done += unit.num_bytes
        mx.clear_cache()  # buffers of one size are seldom of use for the next unit
    if report is not None:
        report(_progress(total, total, plan.num_layers, plan))


def _progress(done_bytes: int, total_bytes: int, layer: int, plan: Plan) -> Progress:
    """layer: the one that is being written, from 1; 0 for a tensor of no layer. Bytes are of the source."""
    note = f"layer {layer} of {plan.num_layers}" if layer else ""
    return Progress("writing", done_bytes // 10**6, total_bytes // 10**6, "MB", note)


def _specs(matrix: Matrix, how: Quantization | None, dtype: mx.Dtype | None) -> list[TensorSpec]:
    if how is None:
        return [TensorSpec(matrix.name, matrix.shape, _dense_type(matrix, dtype))]
    return quantized_specs(matrix.path, matrix.shape, how, _scale_type(matrix, dtype))


def _converted(matrix: Matrix, arrays: Arrays, how: Quantization | None, dtype: mx.Dtype | None) -> Arrays:
    if how is not None and how == matrix.quantization:
        scale_type = _scale_type(matrix, dtype)
        result = {n: a.astype(scale_type) if n == "biases" or a.dtype in FLOATS else a for n, a in arrays.items()}
    elif how is not None:
        values = _values(matrix, arrays, _scale_type(matrix, dtype))
        if not mx.isfinite(values).all().item():
            raise NotFinite(matrix.name, 0)
        result = quantize_values(values, how)
    else:
        result = {"weight": _values(matrix, arrays, _dense_type(matrix, dtype))}
    mx.eval(result)
    return result


def _values(matrix: Matrix, arrays: Arrays, dtype: mx.Dtype) -> mx.array:
    if matrix.quantization is not None:
        return dequantize_values(arrays, matrix.quantization, dtype)
    return arrays["weight"].astype(dtype)


def _dense_type(matrix: Matrix, dtype: mx.Dtype | None) -> mx.Dtype:
    """Integers keep their type; matrices with eight-bit scales become bfloat16, as MLX expands them."""
    own = mx.bfloat16 if matrix.quantization is not None and matrix.dtype == mx.uint8 else matrix.dtype
    return own if dtype is None or own not in FLOATS else dtype


def _scale_type(matrix: Matrix, dtype: mx.Dtype | None) -> mx.Dtype:
    return _dense_type(matrix, dtype)
