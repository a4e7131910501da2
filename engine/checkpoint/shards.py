"""Find the safetensors files of a model folder, one or sharded. Knows the index; leaves headers to safetensors.py."""

from typing import Any

from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.json_object import shown
from engine.checkpoint.safetensors import read_entries
from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointCorrupt

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_INDEX_BYTES = 32 << 20
_MAX_SHARDS = 4096


def read_shards(folder: ModelFolder) -> dict[str, TensorEntry]:
    """Every tensor of the model, by name; model.safetensors goes before an index, as in transformers.

    The index is the authority: a tensor that it does not list is not part of the model.

    Raises CheckpointNotFound, CheckpointCorrupt and CheckpointUnsupported.
    """
    if folder.has(SINGLE_FILE):
        return read_entries(folder.file(SINGLE_FILE))
    weight_map = _weight_map(folder.json(INDEX_FILE, _MAX_INDEX_BYTES))
    shards = {name: read_entries(folder.file(name)) for name in sorted(set(weight_map.values()))}
    _check_listed(weight_map, shards)
    return {tensor: shards[file][tensor] for tensor, file in weight_map.items()}


def _weight_map(index: dict[str, Any]) -> dict[str, str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointCorrupt(INDEX_FILE, "it has no weight_map object")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            raise CheckpointCorrupt(INDEX_FILE, f"it places tensor {shown(tensor)} in {shown(file)}")
    if len(set(weight_map.values())) > _MAX_SHARDS:
        raise CheckpointCorrupt(INDEX_FILE, f"it names more than {_MAX_SHARDS} files")
    return weight_map


def _check_listed(weight_map: dict[str, str], shards: dict[str, dict[str, TensorEntry]]) -> None:
    for tensor, file in weight_map.items():
        if tensor not in shards[file]:
            raise CheckpointCorrupt(file, f"tensor {shown(tensor)} is missing, although {INDEX_FILE} places it there")
