"""Read the header of a safetensors file and hold it against the file's size. Reads no tensor data.

Format: https://huggingface.co/docs/safetensors (eight bytes of length, a JSON header, the data without holes).
"""

from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

from engine.checkpoint.folder import file_bytes, open_file
from engine.checkpoint.json_object import parse_object, shown
from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

# The format allows 100 MB. A hundred thousand tensors take 13 MB, and parsed JSON may be twenty times its text.
_MAX_HEADER_BYTES = 32 << 20
_MAX_DIMENSIONS = 8
_MAX_DIMENSION = (1 << 31) - 1
_MAX_NAME_LENGTH = 512
_ELEMENT_BYTES = {
    "BOOL": 1,
    "I8": 1,
    "U8": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
}
_FIELDS = {"dtype", "shape", "data_offsets"}


def read_entries(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file, by name.

    Raises CheckpointNotFound, CheckpointCorrupt, and CheckpointUnsupported for a type that MLX has not.
    """
    with open_file(path) as file:
        size = file_bytes(file)
        text = _header_text(file, path.name, size)
    header = parse_object(text, path.name)
    _check_metadata(header.pop("__metadata__", None), path.name)
    start = 8 + len(text)
    entries = {name: _entry(name, fields, path, start) for name, fields in header.items()}
    _check_coverage(entries, path.name, start, size)
    return entries


def _header_text(file: BufferedReader, name: str, size: int) -> bytes:
    if size < 8:
        raise CheckpointCorrupt(name, f"it has {size} bytes, and the length of its header alone takes 8")
    num_bytes = int.from_bytes(file.read(8), "little")
    if num_bytes > size - 8:
        raise CheckpointCorrupt(name, f"it has {size} bytes, but its header claims {num_bytes}")
    if num_bytes > _MAX_HEADER_BYTES:
        raise CheckpointUnsupported(f"header of {name}", f"more than {_MAX_HEADER_BYTES} bytes", "smaller headers")
    text = file.read(num_bytes)
    if len(text) < num_bytes or not text.startswith(b"{"):
        raise CheckpointCorrupt(name, "its header does not begin with a brace")
    return text


def _check_metadata(metadata: Any, file: str) -> None:
    """Absent, or null as MLX writes it, or strings."""
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointCorrupt(file, "__metadata__ is not an object of strings")


def _entry(name: str, fields: Any, path: Path, start: int) -> TensorEntry:
    if not 0 < len(name) <= _MAX_NAME_LENGTH or not name.isprintable():
        raise CheckpointCorrupt(path.name, f"{shown(name)} is not a tensor's name")
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        raise CheckpointCorrupt(path.name, f"tensor {shown(name)} has not exactly dtype, shape and data_offsets")
    dtype = _dtype(name, fields["dtype"], path.name)
    shape = _numbers(name, "shape", fields["shape"], path.name)
    begin, end = _offsets(name, fields["data_offsets"], path.name)
    if len(shape) > _MAX_DIMENSIONS or any(length > _MAX_DIMENSION for length in shape):
        raise CheckpointCorrupt(path.name, f"tensor {shown(name)} has more or larger dimensions than an array may have")
    if end - begin != prod(shape) * _ELEMENT_BYTES[dtype]:
        raise CheckpointCorrupt(
            path.name, f"tensor {shown(name)} has {end - begin} bytes, not those of {dtype} in shape {list(shape)}"
        )
    return TensorEntry(name, dtype, shape, path, start + begin, end - begin)


def _dtype(name: str, value: Any, file: str) -> str:
    if not isinstance(value, str):
        raise CheckpointCorrupt(file, f"tensor {shown(name)} has a dtype that is not a string")
    if value not in _ELEMENT_BYTES:
        raise CheckpointUnsupported(f"dtype of tensor {shown(name)}", value[:32], ", ".join(_ELEMENT_BYTES))
    return value


def _numbers(name: str, field: str, value: Any, file: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each < 1 << 63 for each in value):
        raise CheckpointCorrupt(file, f"tensor {shown(name)} has a {field} that is not a list of whole numbers")
    return tuple(value)


def _offsets(name: str, value: Any, file: str) -> tuple[int, int]:
    offsets = _numbers(name, "data_offsets", value, file)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointCorrupt(file, f"tensor {shown(name)} has data_offsets that are not a beginning and an end")
    return offsets[0], offsets[1]


def _check_coverage(entries: dict[str, TensorEntry], file: str, start: int, size: int) -> None:
    """The format allows neither holes nor overlaps: each tensor begins where the one before it ends."""
    end = start
    for entry in sorted(entries.values(), key=lambda each: (each.offset, each.num_bytes)):
        if entry.offset != end:
            fault = "overlaps the one before it" if entry.offset < end else "leaves a hole before it"
            raise CheckpointCorrupt(file, f"tensor {shown(entry.name)} at byte {entry.offset} {fault} ({end})")
        end += entry.num_bytes
    if end != size:
        raise CheckpointCorrupt(file, f"it has {size} bytes, but its header describes {end}")
