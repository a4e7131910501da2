"""Read the header of a GGUF file and hold it against the file's size. Reads no tensor data, knows no architecture.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from engine.checkpoint.folder import open_file
from engine.checkpoint.ggml_types import BY_NAME, LOADABLE, OTHER_NAMES
from engine.checkpoint.gguf_cursor import GGUFCursor, key_of
from engine.checkpoint.json_object import shown
from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

_VERSIONS = (2, 3)
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 18
_MAX_DIMENSIONS = 4
_MAX_DIMENSION = (1 << 31) - 1
_MAX_NAME_LENGTH = 512
_MAX_ALIGNMENT = 1 << 20
_SMALLEST_KEY_BYTES = 8 + 4 + 1
_SMALLEST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True)
class GGUFHeader:
    """A GGUF's metadata, and its tensors by their names in the file. Shapes are row-major."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorEntry]


def read_header(path: Path) -> GGUFHeader:
    """Read and check a GGUF file's header.

    Raises CheckpointNotFound, CheckpointCorrupt, and CheckpointUnsupported for block types that cannot be loaded.
    """
    with open_file(path) as file:
        cursor = GGUFCursor(file, path.name)
        num_tensors, num_keys = _counts(cursor)
        metadata = _metadata(cursor, num_keys)
        alignment = _alignment(metadata, cursor)
        infos = [_TensorInfo.read(cursor) for _ in range(num_tensors)]
    data_start = -(-cursor.position // alignment) * alignment
    entries = [info.entry(path, data_start, alignment) for info in infos]
    _check_places(entries, path.name, cursor.num_file_bytes)
    tensors = {entry.name: entry for entry in entries}
    if len(tensors) < len(entries):
        raise CheckpointCorrupt(path.name, "two tensors have the same name")
    return GGUFHeader(metadata, tensors)


def _counts(cursor: GGUFCursor) -> tuple[int, int]:
    if cursor.bytes(4) != b"GGUF":
        raise cursor.fail("it does not begin with GGUF")
    version = cursor.integer("I")
    if version not in _VERSIONS:
        raise CheckpointUnsupported("GGUF version", version, "2 and 3, little-endian")
    num_tensors, num_keys = cursor.integers("Q", 2)
    if num_tensors > _MAX_TENSORS or num_keys > _MAX_KEYS:
        raise cursor.fail(f"it claims {num_tensors} tensors and {num_keys} keys: that is more than allowed")
    cursor.require(num_keys, _SMALLEST_KEY_BYTES, "metadata keys")
    cursor.require(num_tensors, _SMALLEST_TENSOR_BYTES, "tensors")
    return num_tensors, num_keys


def _metadata(cursor: GGUFCursor, num_keys: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = key_of(cursor)
        if key in metadata:
            raise cursor.fail(f"metadata key {shown(key)} is given twice")
        metadata[key] = cursor.value(cursor.integer("I"))
    return metadata


def _alignment(metadata: dict[str, Any], cursor: GGUFCursor) -> int:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {shown(alignment)}, not a power of two from 8 to {_MAX_ALIGNMENT}")
    return alignment


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    """A tensor as the header describes it. offset: from the start of the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @classmethod
    def read(cls, cursor: GGUFCursor) -> "_TensorInfo":
        name = cursor.string()
        if not 0 < len(name) <= _MAX_NAME_LENGTH or not name.isprintable():
            raise cursor.fail(f"{shown(name)} is not a tensor's name")
        num_dimensions = cursor.integer("I")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise cursor.fail(f"tensor {shown(name)} has {num_dimensions} dimensions, not 1 to {_MAX_DIMENSIONS}")
        shape = cursor.integers("Q", num_dimensions)[::-1]
        if not all(1 <= length <= _MAX_DIMENSION for length in shape):
            raise cursor.fail(f"tensor {shown(name)} has the impossible shape {list(shape)}")
        return cls(name, shape, cursor.integer("I"), cursor.integer("Q"))

    def entry(self, path: Path, data_start: int, alignment: int) -> TensorEntry:
        kind = LOADABLE.get(self.kind)
        if kind is None:
            name = OTHER_NAMES.get(self.kind, f"number {self.kind}")
            raise CheckpointUnsupported(f"GGML type of tensor {shown(self.name)}", name, ", ".join(BY_NAME))
        if self.shape[-1] % kind.block_values:
            raise CheckpointCorrupt(
                path.name, f"tensor {shown(self.name)} has rows of {self.shape[-1]}, which {kind.name} cannot store"
            )
        if self.offset % alignment:
            raise CheckpointCorrupt(path.name, f"tensor {shown(self.name)} does not begin at a multiple of {alignment}")
        num_bytes = prod(self.shape) // kind.block_values * kind.block_bytes
        return TensorEntry(self.name, kind.name, self.shape, path, data_start + self.offset, num_bytes)


def _check_places(entries: list[TensorEntry], file: str, size: int) -> None:
    end = 0
    for entry in sorted(entries, key=lambda each: each.offset):
        if entry.offset < end:
            raise CheckpointCorrupt(file, f"tensor {shown(entry.name)} overlaps the one before it")
        end = entry.offset + entry.num_bytes
        if end > size:
            raise CheckpointCorrupt(file, f"it has {size} bytes, but tensor {shown(entry.name)} ends at byte {end}")
