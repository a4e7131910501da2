"""Quantise with bits of each matrix's own: as many as what the model loses by it is worth, under a size."""

from collections.abc import Iterator
from math import prod
from pathlib import Path

from engine.device import prepare_device  # isort: skip  # first: loads the BLAS before mlx

import mlx.core as mx

from engine.checkpoint.tensors import Quantization
from engine.conversion.budget import Candidate, allocate, smallest_bytes
from engine.conversion.folder_writer import TensorSpec
from engine.conversion.plan import FLOATS, Matrix, Plan
from engine.conversion.quantization import num_quantized_bytes
from engine.conversion.quantize import decided, dtype_of, open_plan
from engine.conversion.rewrite import Written, rewrite
from engine.conversion.sensitivity import Sensitivity, expected_loss
from engine.errors import ChoiceInvalid
from engine.evaluation.decoder import load_decoder
from engine.evaluation.texts import Text, cut_windows, read_text
from engine.progress import Progress, Report
from engine.quantization_rules import QuantizationChoice, allowed, uniform

# What a matrix may become, besides staying as it is.
FORMS = tuple(
    Quantization(bits, group_size)
    for bits, group_size in ((2, 64), (3, 64), (3, 32), (4, 64), (4, 32), (5, 64), (5, 32), (6, 64), (6, 32), (8, 64))
)
_GRADIENT_VALUES = 1 << 28
_CALIBRATION_TOKENS = 1024
_WINDOW_TOKENS = 256


def quantize_mixed(
    source: Path,
    target: Path,
    *,
    target_bytes: int | None = None,
    text: Text | None = None,
    dtype: str | None = None,
    report: Report | None = None,
) -> Written:
    """Write a quantised copy whose tensors take `target_bytes` at most.

    target_bytes: None is the size that 4 bits for all would have
    text: to measure with; None takes the sample that comes with Bramley
    Raises CheckpointError, ChoiceInvalid and ConversionError; CompressionError where the model has no decoder alone.
    """
    wanted = dtype_of(dtype)
    plan = open_plan(source)
    budget = num_bytes_of(plan, QuantizationChoice(4).quantization(), wanted) if target_bytes is None else target_bytes
    open_matrices = [matrix for matrix in plan.matrices if _is_open(matrix)]
    fixed = sum(_dense_bytes(matrix, wanted) for matrix in plan.matrices if not _is_open(matrix))
    candidates = _candidates(plan, open_matrices, text, wanted, report)
    least = fixed + smallest_bytes(candidates)
    if least > budget:
        raise ChoiceInvalid("target size", f"{budget / 1e6:.1f} MB are too few: {least / 1e6:.1f} MB is the least")
    chosen = allocate(candidates, budget - fixed)
    return rewrite(plan, target, lambda m: chosen.get(m.name, m.quantization), dtype=wanted, report=report)


def num_bytes_of(plan: Plan, how: Quantization, dtype: mx.Dtype | None) -> int:
    """Bytes of tensors that the model would have, quantised alike."""
    rule = uniform(how)
    total = 0
    for matrix in plan.matrices:
        form = decided(matrix, rule)
        total += _dense_bytes(matrix, dtype) if form is None else _quantized_bytes(matrix, form, dtype)
    return total


def _candidates(
    plan: Plan, matrices: list[Matrix], text: Text | None, dtype: mx.Dtype | None, report: Report | None
) -> dict[str, list[Candidate[Quantization]]]:
    decoder = load_decoder(plan.checkpoint.path, prepare_device("off"))
    sample = read_text(None, "calibration") if text is None else text
    windows = cut_windows(sample, decoder.tokenizer, _WINDOW_TOKENS, _CALIBRATION_TOKENS)
    sensitivity = Sensitivity(decoder, windows)
    found: dict[str, list[Candidate[Quantization]]] = {}
    for some in _batches(matrices):
        information = sensitivity.information([matrix.own for matrix in some])
        for matrix in some:
            weight, weights_information = sensitivity.weight(matrix.own), information.pop(matrix.own)
            found[matrix.name] = [
                Candidate(form, _quantized_bytes(matrix, form, dtype), expected_loss(weight, weights_information, form))
                for form in _forms(matrix)
            ]
            if report is not None:
                report(Progress("measuring", len(found), len(matrices), "matrices"))
    return found


def _batches(matrices: list[Matrix]) -> Iterator[list[Matrix]]:
    """Batches of matrices whose gradients fit into memory together."""
    batch: list[Matrix] = []
    for matrix in matrices:
        if batch and sum(prod(each.shape) for each in [*batch, matrix]) > _GRADIENT_VALUES:
            yield batch
            batch = []
        batch.append(matrix)
    yield batch


def _is_open(matrix: Matrix) -> bool:
    return matrix.module is not None and matrix.quantization is None and bool(_forms(matrix))


def _forms(matrix: Matrix) -> list[Quantization]:
    module = matrix.module
    if module is None:
        return []
    return [form for form in FORMS if allowed(form, matrix.own, module, matrix.shape) is not None]


def _quantized_bytes(matrix: Matrix, how: Quantization, dtype: mx.Dtype | None) -> int:
    return num_quantized_bytes(
        matrix.shape, how, matrix.dtype if dtype is None or matrix.dtype not in FLOATS else dtype
    )


def _dense_bytes(matrix: Matrix, dtype: mx.Dtype | None) -> int:
    if matrix.quantization is not None:
        return _quantized_bytes(matrix, matrix.quantization, dtype)
    own = matrix.dtype if dtype is None or matrix.dtype not in FLOATS else dtype
    return TensorSpec(matrix.name, matrix.shape, own).num_bytes
