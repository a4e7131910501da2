"""A student: a model that will be taught, from a checkpoint or with random weights, and how it is written down."""

from engine.compression.float_model import Arrays, FloatModel, float_device  # isort: skip  # first: the BLAS before mlx

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from engine.checkpoint.checkpoint import Checkpoint
from engine.compression.cuts import Cut
from engine.compression.pruned_config import pruned_config
from engine.conversion.folder_writer import write_folder
from engine.conversion.plan import FLOATS, Plan
from engine.conversion.rewrite import files_of, new_config
from engine.conversion.tensor_reader import TensorReader
from engine.device import Device
from engine.errors import ChoiceInvalid
from engine.evaluation.decoder import LoadedDecoder, load_decoder
from engine.evaluation.errors import ModelUnfit
from engine.layers.linear import Weight
from engine.layers.module import Architecture
from engine.layers.norm import UnitOffsetRMSNorm
from engine.model import outline
from engine.progress import Progress, Report

_INITIAL_DEVIATION = 0.02
_INNER_STEP = 32
_TABLES = ("embed_tokens", "lm_head", "wte", "wpe", "embed_in", "embed_out")


@dataclass(frozen=True, slots=True)
class Scratch:
    """A student of the teacher's family with random weights. The feed-forward width follows from the hidden size."""

    num_layers: int
    hidden_size: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Student:
    """A model to teach.

    names: what the checkpoint calls each array of the model
    random: it has learned nothing yet
    """

    name: str
    checkpoint: Checkpoint
    model: FloatModel
    weights: Arrays
    names: Mapping[str, str]
    random: bool

    def trained_names(self, *, tables: bool) -> list[str]:
        """The arrays that are trained. tables: also token vectors and the output head; else those stay as they are."""
        names = [name for name, array in self.weights.items() if array.dtype in FLOATS]
        return [name for name in names if tables or name.rpartition(".")[0].rpartition(".")[2] not in _TABLES]

    def write(self, target: Path, weights: Mapping[str, mx.array], dtype: mx.Dtype) -> None:
        """Write it as an ordinary model folder. Raises ConversionError."""
        arrays = {self.names[name]: array for name, array in (self.weights | dict(weights)).items()}
        tensors = {name: array.astype(dtype) if array.dtype in FLOATS else array for name, array in arrays.items()}
        write_folder(target, new_config(self.checkpoint, {}, dtype), tensors, files_of(self.checkpoint))


def open_student(
    path: Path, device: Device, precision: mx.Dtype, report: Report, name: str = ""
) -> tuple[Student, LoadedDecoder]:
    """A student from a checkpoint, its quantised weights expanded. Raises CheckpointError and CompressionError."""
    decoder = load_decoder(
        path,
        float_device(device),
        lambda done, total: report(Progress("loading the student", done // 10**6, total // 10**6, "MB")),
        name,
    )
    model = FloatModel(decoder.model, device, precision)
    weights = model.parameters()
    names = {}
    for matrix in Plan(TensorReader(decoder.checkpoint)).matrices:
        own = f"{matrix.own}.weight" if f"{matrix.own}.weight" in weights else matrix.own
        names[own] = matrix.name
    if names.keys() != weights.keys():
        raise ModelUnfit(decoder.name, "is of a family whose weights cannot be written back")
    return Student(decoder.name, decoder.checkpoint, model, weights, names, random=False), decoder


def make_student(scratch: Scratch, teacher: LoadedDecoder, precision: mx.Dtype) -> Student:
    """A student with random weights. Raises ChoiceInvalid and ModelUnfit."""
    config = _config(scratch, teacher)
    checkpoint = replace(teacher.checkpoint, config=config, tensors={}, quantization={})
    model: Any = outline(checkpoint)
    if type(model).rename is not Architecture.rename or type(model).convert is not Architecture.convert:
        raise ModelUnfit(teacher.name, "is of a family that cannot be begun from scratch: prune it instead")
    weights = _initial(model, scratch, config["num_hidden_layers"])
    own = FloatModel(model, teacher.device, precision)
    own.put(weights)
    return Student("scratch", checkpoint, own, weights, {name: name for name in weights}, random=True)


def _config(scratch: Scratch, teacher: LoadedDecoder) -> dict[str, Any]:
    old = teacher.checkpoint.config
    keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    if not all(isinstance(old.get(key), int) for key in keys):
        raise ModelUnfit(teacher.name, "is of a family that cannot be begun from scratch: prune it instead")
    num_layers, hidden_size = old["num_hidden_layers"], old["hidden_size"]
    if not 1 <= scratch.num_layers <= num_layers:
        raise ChoiceInvalid("layers", f"{scratch.num_layers} is not between 1 and {num_layers}, the teacher's")
    head_dim = old.get("head_dim") or hidden_size // old["num_attention_heads"]
    if scratch.hidden_size % head_dim or not head_dim <= scratch.hidden_size <= hidden_size:
        raise ChoiceInvalid("hidden-size", f"{scratch.hidden_size} is not a multiple of {head_dim} up to {hidden_size}")
    num_heads = scratch.hidden_size // head_dim
    share = (old.get("num_key_value_heads") or old["num_attention_heads"]) / old["num_attention_heads"]
    kv_heads = max(
        each for each in range(1, num_heads + 1) if num_heads % each == 0 and each <= max(1, num_heads * share)
    )
    inner = old["intermediate_size"] * scratch.hidden_size / hidden_size
    kept = Cut(tuple(range(scratch.num_layers)))
    return pruned_config(old, kept, teacher.model.windows, teacher.name) | {
        "head_dim": head_dim,
        "hidden_size": scratch.hidden_size,
        "intermediate_size": max(1, round(inner / _INNER_STEP)) * _INNER_STEP,
        "num_attention_heads": num_heads,
        "num_key_value_heads": kv_heads,
    }


def _initial(model: Architecture, scratch: Scratch, num_layers: int) -> Arrays:
    """Normal matrices, those whose result is added smaller by the number of additions; norms that change nothing."""
    key, weights = mx.random.key(scratch.seed), {}
    for path, module in model.modules():
        for attribute, array in module.arrays().items():
            name = f"{path}.{attribute}" if path else attribute
            weights[name] = array.astype(mx.float32)
            if isinstance(module, Weight) and attribute == "weight":
                key, own = mx.random.split(key)
                back = path.endswith((".o_proj", ".down_proj"))
                deviation = _INITIAL_DEVIATION / (2 * num_layers) ** 0.5 if back else _INITIAL_DEVIATION
                weights[name] = mx.random.normal(array.shape, key=own) * deviation
            elif isinstance(module, UnitOffsetRMSNorm):
                weights[name] = mx.zeros(array.shape)
    mx.eval(weights)
    return weights
