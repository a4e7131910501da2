"""Quantise a model on disk, or bring it into another type: the verbs over rewrite.py. Knows what is asked for."""

from pathlib import Path

from engine.device import prepare_device  # isort: skip  # first: loads the BLAS before mlx

import mlx.core as mx

from engine.checkpoint.checkpoint import open_checkpoint, open_foreign
from engine.checkpoint.tensors import Quantization
from engine.conversion.gptq import METHODS, ForeignReader
from engine.conversion.plan import Matrix, Plan
from engine.conversion.rewrite import Written, rewrite
from engine.conversion.tensor_reader import TensorReader
from engine.errors import ChoiceInvalid
from engine.progress import Report
from engine.quantization_rules import QuantizationChoice, Rule, fixed_mixture, stays_quantized, uniform

DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}


def quantize(
    source: Path,
    target: Path,
    choice: QuantizationChoice,
    *,
    recipe: str | None = None,
    dtype: str | None = None,
    report: Report | None = None,
) -> Written:
    """Write a quantised copy of the model at `source` to the folder `target`.

    recipe: one of mlx-lm's mixtures by name, in the choice's group size; None quantises alike what may be quantised
    dtype: of scales and of what stays dense: "float16", "bfloat16" or "float32"; None leaves the checkpoint's
    Raises CheckpointError, ChoiceInvalid and ConversionError.
    """
    how = choice.quantization()
    plan = open_plan(source)
    rule = uniform(how) if recipe is None else fixed_mixture(recipe, choice.group_size, plan.num_layers)
    if not any(decided(matrix, rule) for matrix in plan.matrices):
        raise ChoiceInvalid("group size", f"no matrix of this model has columns that divide by {how.group_size}")
    return rewrite(plan, target, lambda matrix: decided(matrix, rule), dtype=dtype_of(dtype), report=report)


def convert(
    source: Path, target: Path, *, dtype: str | None = None, dequantize: bool = False, report: Report | None = None
) -> Written:
    """Write the model at `source` as an MLX folder.

    dequantize: expand quantised weights, which gives an ordinary safetensors checkpoint
    Otherwise as `quantize`.
    """
    plan = open_plan(source, expand=dequantize)
    return rewrite(
        plan,
        target,
        lambda matrix: None if dequantize else matrix.quantization,
        dtype=dtype_of(dtype),
        report=report,
    )


def open_plan(source: Path, *, expand: bool = False) -> Plan:
    """The plan of the model at a path.

    expand: matrices that GPTQ has quantised in a way that MLX has no layout for become floats
    Raises CheckpointError.
    """
    prepare_device("off")
    foreign = open_foreign(source, METHODS)
    if foreign is not None:
        return Plan(ForeignReader(foreign, expand=expand))
    return Plan(TensorReader(open_checkpoint(source)))


def decided(matrix: Matrix, rule: Rule) -> Quantization | None:
    """A matrix's quantisation under a rule, which keeps an older one of as few bits."""
    if matrix.module is None:
        return None
    wanted = rule(matrix.own, matrix.module, matrix.shape)
    if matrix.quantization is not None and (wanted is None or stays_quantized(matrix.quantization, wanted)):
        return matrix.quantization
    return wanted


def dtype_of(name: str | None) -> mx.Dtype | None:
    """MLX's type of that name. Raises ChoiceInvalid."""
    if name is not None and name not in DTYPES:
        raise ChoiceInvalid("dtype", f"{name} is not one of {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]
