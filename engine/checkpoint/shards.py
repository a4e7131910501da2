"""Find the safetensors files of a model folder, one or sharded. Knows the index; leaves headers to safetensors.py."""

import re
from collections.abc import Collection, Iterable
from typing import Any

from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.json_object import shown
from engine.checkpoint.safetensors import read_entries
from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointCorrupt, CheckpointNotFound

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_INDEX_BYTES = 32 << 20
_MAX_SHARDS = 4096
_SHARD = re.compile(r"(?P<stem>[^/]+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<kind>safetensors|gguf)", re.ASCII)


def has_weights(names: Collection[str]) -> bool:
    """True when a folder with these files is one of safetensors: one file, an index, or shards without one."""
    return SINGLE_FILE in names or INDEX_FILE in names or bool(shard_set(names))


def shard_set(names: Iterable[str]) -> list[str]:
    """The numbered safetensors files of a model that all are there, in order; none where one is missing.

    Of several sets the one of `model` is taken, else the first.
    """
    present = set(names)
    sets = [split_parts(name) for name in sorted(present) if name.endswith(".safetensors")]
    whole = [parts for parts in sets if parts and present.issuperset(parts)]
    return min(whole, key=lambda parts: (not parts[0].startswith("model-"), parts), default=[])


def check_parts(names: Iterable[str]) -> None:
    """Name the first part that is missing of a model in several files. Raises CheckpointNotFound."""
    present = set(names)
    for match in filter(None, map(_SHARD.fullmatch, sorted(present))):
        for name in part_names(match):
            if name not in present:
                raise CheckpointNotFound(name, f"it is missing, while {match[0]}, another part of the model, is there")


def part_names(match: re.Match[str]) -> list[str]:
    """The names of all parts of the set that one of them belongs to; none for an impossible count."""
    count = int(match["count"])
    numbers = range(1, count + 1) if count <= _MAX_SHARDS else ()
    return [f"{match['stem']}-{number:05d}-of-{count:05d}.{match['kind']}" for number in numbers]


def split_parts(name: str) -> list[str]:
    """The names of all parts of the model that a numbered file belongs to; none for any other file."""
    match = _SHARD.fullmatch(name)
    return [] if match is None else part_names(match)


def weight_files(folder: ModelFolder) -> list[str]:
    """The files that hold the model's tensors; some may be missing. Raises CheckpointNotFound and CheckpointCorrupt.

    An index that names files which are not there, beside numbered files which all are, is left over from another
    copy of the model.
    """
    if folder.has(SINGLE_FILE):
        return [SINGLE_FILE]
    parts = shard_set(folder.names())
    if not folder.has(INDEX_FILE):
        return parts
    listed = sorted(set(_weight_map(folder).values()))
    return parts if parts and _lacks_one(folder, listed) else listed


def read_shards(folder: ModelFolder) -> dict[str, TensorEntry]:
    """Every tensor of the model, by name; model.safetensors goes before an index, as in transformers.

    The index is the authority: a tensor that it does not list is not part of the model. One that contradicts a whole
    set of numbered files is left over, and their headers are the authority.
    Raises CheckpointNotFound, CheckpointCorrupt and CheckpointUnsupported.
    """
    files = weight_files(folder)
    if not files:
        raise CheckpointNotFound(folder.name, f"it has neither {SINGLE_FILE} nor all parts of a model in several files")
    shards = _read(folder, files)
    if SINGLE_FILE in shards:
        return shards[SINGLE_FILE]
    weight_map = _weight_map(folder) if folder.has(INDEX_FILE) else {}
    fault = next((each for each in weight_map.items() if each[0] not in shards.get(each[1], {})), None)
    parts = shard_set(folder.names())
    if fault is not None and not parts:
        tensor, file = fault
        raise CheckpointCorrupt(file, f"tensor {shown(tensor)} is missing, although {INDEX_FILE} places it there")
    if fault is not None or not weight_map:
        return _joined(_read(folder, parts))
    return {tensor: shards[file][tensor] for tensor, file in weight_map.items()}


def _read(folder: ModelFolder, files: Iterable[str]) -> dict[str, dict[str, TensorEntry]]:
    return {name: read_entries(folder.file(name)) for name in files}


def _lacks_one(folder: ModelFolder, names: Iterable[str]) -> bool:
    try:
        for name in names:
            folder.file(name)
    except CheckpointNotFound:
        return True
    return False


def _weight_map(folder: ModelFolder) -> dict[str, str]:
    weight_map: Any = folder.json(INDEX_FILE, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointCorrupt(INDEX_FILE, "it has no weight_map object")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            raise CheckpointCorrupt(INDEX_FILE, f"it places tensor {shown(tensor)} in {shown(file)}")
    if len(set(weight_map.values())) > _MAX_SHARDS:
        raise CheckpointCorrupt(INDEX_FILE, f"it names more than {_MAX_SHARDS} files")
    return weight_map


def _joined(shards: dict[str, dict[str, TensorEntry]]) -> dict[str, TensorEntry]:
    tensors: dict[str, TensorEntry] = {}
    for file, entries in shards.items():
        if twice := tensors.keys() & entries.keys():
            raise CheckpointCorrupt(file, f"tensor {shown(min(twice))} is also in another part of the model")
        tensors |= entries
    return tensors
