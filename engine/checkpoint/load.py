"""Read a checkpoint's tensors into mlx arrays. Trusts the entries' numbers, which their headers' readers have checked.

Reads into fresh memory instead of mapping the file: a file that shrinks meanwhile is then an error, not a crash.
"""

from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader
from itertools import groupby
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from engine.checkpoint.checkpoint import Checkpoint, TensorEntry
from engine.checkpoint.folder import open_file
from engine.checkpoint.ggml_blocks import PackedBlocks
from engine.checkpoint.ggml_expand import expand
from engine.checkpoint.ggml_types import BY_NAME, GGMLType
from engine.checkpoint.json_object import shown
from engine.errors import CheckpointCorrupt

_NUMPY_TYPES = {
    "BOOL": "?",
    "I8": "i1",
    "U8": "u1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "BF16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "I64": "<i8",
    "U64": "<u8",
}
# Values repacked at a time: small enough to stay in the processor's cache.
_CHUNK_VALUES = 1 << 19

Array = NDArray[Any]


def load_tensors(checkpoint: Checkpoint, *, exact: bool = True) -> Iterator[tuple[str, mx.array]]:
    """Every tensor by its Hugging Face name, in the order of the files.

    A packed module gives "x.weight" (out, in * bits / 32) uint32, "x.scales" and "x.biases" (out, in / group_size).
    Types are as stored; a GGUF's scales and biases are of the type that holds them exactly, and what MLX cannot pack is
    float32. Not exact: both are float16 at most.
    Raises CheckpointNotFound and CheckpointCorrupt.
    """
    entries = sorted(checkpoint.tensors.values(), key=lambda entry: (entry.file, entry.offset))
    for path, in_file in groupby(entries, key=lambda entry: entry.file):
        with open_file(path) as file:
            for entry in in_file:
                yield from _load(file, entry, exact=exact)


def load_entry(entry: TensorEntry, *, exact: bool = True) -> dict[str, mx.array]:
    """One tensor of a checkpoint, or the arrays of one that is packed in blocks; otherwise as load_tensors."""
    with open_file(entry.file) as file:
        return dict(_load(file, entry, exact=exact))


def load_rows(entry: TensorEntry, start: int, stop: int) -> mx.array:
    """Rows of a dense tensor of a safetensors file, from start to stop; otherwise as load_tensors."""
    row_bytes = entry.num_bytes // entry.shape[0]
    rows = replace(
        entry,
        shape=(stop - start, *entry.shape[1:]),
        offset=entry.offset + start * row_bytes,
        num_bytes=(stop - start) * row_bytes,
    )
    with open_file(entry.file) as file:
        file.seek(rows.offset)
        return _load_dense(file, rows)


def _load(file: BufferedReader, entry: TensorEntry, *, exact: bool) -> Iterator[tuple[str, mx.array]]:
    file.seek(entry.offset)
    kind = BY_NAME.get(entry.dtype)
    if kind is not None and kind.expanded:
        yield entry.name, mx.array(_in_order(_load_expanded(file, entry, kind, exact=exact), entry))
        return
    if kind is None or kind.quantization is None:
        yield entry.name, _load_dense(file, entry)
        return
    blocks = _load_blocks(file, entry, kind, exact=exact)
    path, rows = entry.name.removesuffix(".weight"), entry.shape[:-1]
    yield f"{path}.weight", mx.array(_in_order(blocks.packed.reshape(*rows, -1), entry).view("<u4"))
    yield f"{path}.scales", mx.array(_in_order(blocks.scales.reshape(*rows, -1), entry))
    if blocks.biases is not None:
        yield f"{path}.biases", mx.array(_in_order(blocks.biases.reshape(*rows, -1), entry))


def _load_dense(file: BufferedReader, entry: TensorEntry) -> mx.array:
    data = np.empty(entry.num_bytes, np.uint8)
    _fill(file, data, entry)
    if entry.dtype == "BOOL":
        data = np.minimum(data, 1)
    array = mx.array(_in_order(data.view(_NUMPY_TYPES[entry.dtype]).reshape(entry.shape), entry))
    array = array.view(mx.bfloat16) if entry.dtype == "BF16" else array
    if entry.is_negative_exponential:
        return mx.log(-array)
    return array + entry.addend if entry.addend else array


def _load_blocks(file: BufferedReader, entry: TensorEntry, kind: GGMLType, *, exact: bool) -> PackedBlocks:
    result = PackedBlocks.empty(entry.num_bytes // kind.block_bytes, kind, exact=exact)
    for start, blocks in _chunks(file, entry, kind):
        result.fill(start, kind.name, blocks)
    if not result.is_finite():
        raise CheckpointCorrupt(entry.file.name, f"tensor {shown(entry.name)} has a scale that is not finite")
    return result


def _load_expanded(file: BufferedReader, entry: TensorEntry, kind: GGMLType, *, exact: bool) -> Array:
    num_blocks = entry.num_bytes // kind.block_bytes
    values = np.empty((num_blocks, kind.block_values), np.float32 if exact else np.float16)
    for start, blocks in _chunks(file, entry, kind):
        with np.errstate(over="ignore"):
            values[start : start + len(blocks)] = expand(kind.name, blocks)
        if not np.isfinite(values[start : start + len(blocks)]).all():
            raise CheckpointCorrupt(entry.file.name, f"tensor {shown(entry.name)} has a value that is not finite")
    return values.reshape(entry.shape)


def _chunks(file: BufferedReader, entry: TensorEntry, kind: GGMLType) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The blocks of a tensor, some at a time, with the number of the first of them; overwritten by the next."""
    num_blocks = entry.num_bytes // kind.block_bytes
    at_once = _CHUNK_VALUES // kind.block_values
    chunk = np.empty((min(at_once, num_blocks), kind.block_bytes), np.uint8)
    for start in range(0, num_blocks, at_once):
        blocks = chunk[: min(at_once, num_blocks - start)]
        _fill(file, blocks.reshape(-1), entry)
        yield start, blocks


def _fill(file: BufferedReader, data: NDArray[np.uint8], entry: TensorEntry) -> None:
    num_bytes = file.readinto(data.data)
    if num_bytes != data.nbytes:
        raise CheckpointCorrupt(entry.file.name, f"it ended inside tensor {shown(entry.name)} while it was read")


def _in_order(rows: Array, entry: TensorEntry) -> Array:
    """Rows as in a Hugging Face checkpoint: from pairs (i, i + half) side by side to one half after the other."""
    if not entry.interleaved_heads:
        return rows
    by_pair = rows.reshape(entry.interleaved_heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(by_pair.swapaxes(1, 2).reshape(rows.shape))
