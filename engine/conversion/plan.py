"""The arrays of a new folder and the source of each, from headers alone. Knows MLX's names and layouts.

A checkpoint's tensors keep their names, but for families whose matrices MLX's folders hold in another layout: experts
in one stack, matrices turned round, gate and up apart. What reads those folders expects MLX's names for them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx

from engine.checkpoint.checkpoint import Quantization, TensorEntry
from engine.checkpoint.load import load_rows
from engine.conversion.tensor_reader import MLX_TYPES, TensorReader, is_expert, path_of
from engine.errors import CheckpointCorrupt
from engine.layers.linear import Weight
from engine.layers.module import Architecture, Module
from engine.model import is_derived, outline

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|block)\.(\d+)\.")
# Values that are read, computed and written at a time.
_SLAB_VALUES = 1 << 24
FLOATS = (mx.float16, mx.bfloat16, mx.float32)


@dataclass(frozen=True, slots=True)
class Matrix:
    """One array of the new folder, or the module whose quantised arrays take its place.

    name: in the new folder; path: without ".weight"
    own: the path of its module in the model
    module: that module, where it is a matrix that can be quantised; None for anything else
    shape: of the values, quantised or not
    dtype: as the checkpoint has it; of the scales where it is quantised
    quantization: as the checkpoint has it; None where it is dense
    """

    name: str
    own: str
    module: Weight | None
    shape: tuple[int, ...]
    dtype: mx.Dtype
    quantization: Quantization | None

    @property
    def path(self) -> str:
        """The module's dotted path in the new folder."""
        return self.name.removesuffix(".weight")

    @property
    def layer(self) -> int | None:
        """The number of the layer that it belongs to."""
        match = _LAYER.search(self.name)
        return None if match is None else int(match[1])


@dataclass(frozen=True, slots=True)
class Unit:
    """Tensors that are read together, and the arrays that become of them.

    entries: of the checkpoint
    matrices: of the new folder
    plain: one dense tensor that stays as it is and may be read by rows
    """

    entries: tuple[TensorEntry, ...]
    matrices: tuple[Matrix, ...]
    plain: bool

    @property
    def num_bytes(self) -> int:
        """Bytes on disk."""
        return sum(entry.num_bytes for entry in self.entries)


class Plan:
    """All units of a checkpoint, in the order of its files. Raises CheckpointUnsupported and CheckpointCorrupt."""

    def __init__(self, reader: TensorReader) -> None:
        self._reader = reader
        self.checkpoint = checkpoint = reader.checkpoint
        self.model: Architecture = outline(checkpoint)
        self._modules: dict[str, Module] = dict(self.model.modules())
        self._parameters = self.model.parameters().keys()
        # What a family adds where a checkpoint leaves it out: nothing to be written.
        self._added = dict(self.model.convert(iter(()))).keys()
        self.units = [unit for entries in self._groups().values() if (unit := self._unit(entries)).matrices]

    @property
    def matrices(self) -> Iterator[Matrix]:
        """Of all units."""
        return (matrix for unit in self.units for matrix in unit.matrices)

    @cached_property
    def num_layers(self) -> int:
        """Layers that have a number of their own."""
        return len({matrix.layer for matrix in self.matrices if matrix.layer is not None})

    def slabs(self, unit: Unit) -> Iterator[tuple[Matrix, int, dict[str, mx.array]]]:
        """The unit's arrays, some rows at a time: the matrix, its first row here, and its arrays.

        "weight" is alone for what is dense, and has "scales" and "biases" beside it where the checkpoint is quantised.
        """
        if unit.plain:
            (matrix,), (entry,) = unit.matrices, unit.entries
            for start, stop in _slabs(matrix.shape):
                yield matrix, start, {"weight": load_rows(entry, start, stop)}
            return
        arrays = self.arrays(unit)
        for matrix in unit.matrices:
            parts = _parts(matrix, arrays)
            for start, stop in _slabs(matrix.shape):
                yield matrix, start, {part: array[start:stop] if array.ndim else array for part, array in parts.items()}

    def arrays(self, unit: Unit) -> dict[str, mx.array]:
        """The unit's arrays whole, by their names in the model."""
        return dict(self.model.convert(iter(self._reader.load(unit.entries).items())))

    def _groups(self) -> dict[str, list[TensorEntry]]:
        groups: dict[str, list[TensorEntry]] = {}
        entries = sorted(self.checkpoint.tensors.values(), key=lambda entry: (entry.file, entry.offset))
        for entry in entries:
            groups.setdefault(self._reader.group(entry.name), []).append(entry)
        return groups

    def _unit(self, entries: list[TensorEntry]) -> Unit:
        found = self._reader.outline(entries)
        own = {self.model.rename(name) for name in found}
        outputs = {n: each for n, each in self.model.convert(iter(found.items())) if n in own or n not in self._added}
        parts = (".scales", ".biases")
        wanted = [name for name in outputs if not name.endswith(parts) and self._is_wanted(name, entries[0])]
        matrices = tuple(self._matrix(name, outputs, list(found)) for name in wanted)
        plain = (
            len(entries) == len(matrices) == 1
            and entries[0].dtype in MLX_TYPES
            and entries[0].name in found
            and type(self.model).convert is Architecture.convert
        )
        return Unit(tuple(entries), matrices, plain and not entries[0].interleaved_heads)

    def _is_wanted(self, own: str, entry: TensorEntry) -> bool:
        if own not in self._parameters and not is_derived(own) and not self._reader.is_void(entry):
            raise CheckpointCorrupt(self.checkpoint.path.name, f"tensor {own} is not part of this architecture")
        return own in self._parameters

    def _matrix(self, own: str, outputs: Mapping[str, mx.array], names: list[str]) -> Matrix:
        path, array = own.removesuffix(".weight"), outputs[own]
        module = self._modules.get(path) if own.endswith(".weight") else None
        weight = module if isinstance(module, Weight) else None
        is_parted = len(outputs) > len(names)
        name = own if is_parted else self._new_name(own, names)
        scales = outputs.get(f"{path}.scales")
        if scales is None:
            return Matrix(name, path, weight, tuple(array.shape), array.dtype, None)
        known = self.checkpoint.quantization
        quantized = known.get(path) or next(known[path_of(each)] for each in names if path_of(each) in known)
        shape = (*array.shape[:-1], array.shape[-1] * 32 // quantized.bits)
        return Matrix(name, path, weight, shape, scales.dtype, quantized)

    def _new_name(self, own: str, names: list[str]) -> str:
        model_type = self.checkpoint.config["model_type"]
        if model_type == "gpt2":
            return f"model.{own}"
        if model_type == "gpt_neox":
            return "model." + re.sub(r"^layers\.", "h.", own)
        if is_expert(names[0]):
            return own
        return next((name for name in names if self.model.rename(name) == own), own)


def _parts(matrix: Matrix, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
    if matrix.quantization is None:
        whole = arrays.get(f"{matrix.own}.weight", arrays.get(matrix.own))
        assert whole is not None
        return {"weight": whole}
    names = ("weight", "scales", "biases")
    return {part: arrays[f"{matrix.own}.{part}"] for part in names if f"{matrix.own}.{part}" in arrays}


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of runs of rows; one for what has no rows."""
    if not shape or not shape[0]:
        yield 0, 0
        return
    values = 1
    for length in shape[1:]:
        values *= length
    rows = max(1, _SLAB_VALUES // max(values, 1))
    for start in range(0, shape[0], rows):
        yield start, min(start + rows, shape[0])
