"""Write a model folder: safetensors in shards, their index, config.json and what goes with them. Knows no quantisation.

Sizes are planned before anything is written, so tensors may come in any order and in pieces, and none is kept.
config.json is written last: until then the folder holds no model.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from engine.checkpoint.shards import INDEX_FILE, SINGLE_FILE
from engine.conversion.new_folder import FreeBytes, free_bytes_of, new_folder, require_space

CONFIG_FILE = "config.json"
SHARD_BYTES = 5 * 10**9
_HEADER_ALIGNMENT = 8

# safetensors' names of MLX's types, and bytes per value.
DTYPES: dict[mx.Dtype, tuple[str, int]] = {
    mx.bool_: ("BOOL", 1),
    mx.int8: ("I8", 1),
    mx.uint8: ("U8", 1),
    mx.int16: ("I16", 2),
    mx.uint16: ("U16", 2),
    mx.float16: ("F16", 2),
    mx.bfloat16: ("BF16", 2),
    mx.int32: ("I32", 4),
    mx.uint32: ("U32", 4),
    mx.float32: ("F32", 4),
    mx.int64: ("I64", 8),
    mx.uint64: ("U64", 8),
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return prod(self.shape) * DTYPES[self.dtype][1]

    @classmethod
    def of(cls, name: str, array: mx.array) -> "TensorSpec":
        """The spec of an array as it is."""
        return cls(name, tuple(array.shape), array.dtype)


class FolderWriter:
    """The files of a model folder that is being written; `writing` makes one.

    num_bytes, total_bytes: of tensors, written so far and in all
    """

    def __init__(self, folder: Path, specs: Sequence[TensorSpec], made_by: str, shard_bytes: int) -> None:
        self._specs = {spec.name: spec for spec in specs}
        assert len(self._specs) == len(specs), "two tensors have one name"
        self._missing_bytes = {spec.name: spec.num_bytes for spec in specs}
        self._files: dict[str, BufferedRandom] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self.total_bytes = sum(spec.num_bytes for spec in specs)
        self.num_bytes = 0
        shards = _shards(specs, shard_bytes)
        for number, shard in enumerate(shards, 1):
            name = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            self._begin_shard(folder / name, shard, made_by)

    def write(self, name: str, array: mx.array | NDArray[Any], first_row: int = 0) -> None:
        """Write a planned tensor, or the rows of it that begin at `first_row`. bfloat16 comes as an mx.array."""
        spec = self._specs[name]
        data = bytes_of(array)
        row_bytes = spec.num_bytes // spec.shape[0] if spec.shape and spec.shape[0] else 0
        assert first_row * row_bytes + data.nbytes <= spec.num_bytes, f"{name} is larger than planned"
        file, offset = self._places[name]
        self._files[file].seek(offset + first_row * row_bytes)
        self._files[file].write(data.data)
        self._missing_bytes[name] -= data.nbytes
        self.num_bytes += data.nbytes

    def finish(self) -> dict[str, str] | None:
        """Check that every byte has been written; returns the index's weight_map where there are several files."""
        missing = [name for name, num_bytes in self._missing_bytes.items() if num_bytes]
        assert not missing, f"{missing[0]} was planned, but not written"
        self.close()
        return {name: self._places[name][0] for name in sorted(self._places)} if len(self._files) > 1 else None

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _begin_shard(self, path: Path, specs: Sequence[TensorSpec], made_by: str) -> None:
        header = _header(specs, made_by)
        file = path.open("x+b")
        self._files[path.name] = file
        file.write(len(header).to_bytes(8, "little") + header)
        offset = 8 + len(header)
        for spec in specs:
            self._places[spec.name] = path.name, offset
            offset += spec.num_bytes
        file.truncate(offset)


@contextmanager
def writing(
    target: Path,
    specs: Sequence[TensorSpec],
    config: Mapping[str, Any],
    files: Mapping[str, Path | bytes] | None = None,
    *,
    made_by: str = "mlx",
    shard_bytes: int = SHARD_BYTES,
    free_bytes: FreeBytes = free_bytes_of,
) -> Iterator[FolderWriter]:
    """Write a model folder within the block; it is there, whole, when the block has ended, and not otherwise.

    specs: all tensors that the block will write
    config: of config.json; may still be changed inside the block
    files: others by their names below the folder, as content or as a file to copy
    made_by: "mlx" for quantised weights, "pt" for what transformers shall read as well
    Raises ConversionError.
    """
    others = dict(files or {})
    with new_folder(target) as folder:
        other_bytes = sum(each.stat().st_size if isinstance(each, Path) else len(each) for each in others.values())
        require_space(folder, sum(spec.num_bytes for spec in specs) + other_bytes, free_bytes)
        writer = FolderWriter(folder, specs, made_by, shard_bytes)
        try:
            yield writer
            weight_map = writer.finish()
        finally:
            writer.close()
        if weight_map is not None:
            index = {"metadata": {"total_size": writer.total_bytes}, "weight_map": weight_map}
            (folder / INDEX_FILE).write_bytes(_json(index))
        for name, content in others.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.read_bytes() if isinstance(content, Path) else content)
        (folder / CONFIG_FILE).write_bytes(_json(config))


def write_folder(
    target: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, mx.array],
    files: Mapping[str, Path | bytes] | None = None,
    *,
    made_by: str = "pt",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model that is in memory; otherwise as `writing`."""
    specs = [TensorSpec.of(name, array) for name, array in tensors.items()]
    with writing(target, specs, config, files, made_by=made_by, shard_bytes=shard_bytes) as writer:
        for name, array in tensors.items():
            writer.write(name, array)


def bytes_of(array: mx.array | NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of an array in row-major order."""
    if isinstance(array, mx.array):
        array = np.array(mx.contiguous(array).reshape(-1).view(mx.uint8), copy=False)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _shards(specs: Iterable[TensorSpec], shard_bytes: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.num_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.num_bytes
    return shards


def _header(specs: Sequence[TensorSpec], made_by: str) -> bytes:
    fields: dict[str, Any] = {"__metadata__": {"format": made_by}}
    offset = 0
    for spec in specs:
        end = offset + spec.num_bytes
        fields[spec.name] = {
            "dtype": DTYPES[spec.dtype][0],
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % _HEADER_ALIGNMENT)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
