"""Which files of a repository or folder make the model, and whether they are all there. Names only; no file formats.

Weights are safetensors or one GGUF. Pickles and Python files are never among them.
"""

import re
from collections.abc import Iterable
from typing import Any

from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.shards import INDEX_FILE, SINGLE_FILE
from server.store.errors import ModelUnfit

CONFIG_FILE = "config.json"
# Sentence-transformers keep the modules after the transformer in numbered folders.
_MODULE_FOLDER = r"\d{1,2}_[A-Za-z]{1,32}"
_NAME = re.compile(rf"(?:{_MODULE_FOLDER}/)?[A-Za-z0-9_][A-Za-z0-9_.+@-]{{0,199}}", re.ASCII)
_SMALL = (".json", ".jinja", ".txt", ".model")
_OF_PICKLES = ".bin.index.json"
_SHARD = re.compile(r"[^/]+-\d{5}-of-\d{5}\.safetensors", re.ASCII)
_MAX_INDEX_BYTES = 32 << 20


def is_file_name(name: str) -> bool:
    """True for names that a model's file can have: no way out of the folder, at most one known level down."""
    return _NAME.fullmatch(name) is not None and not name.endswith(".")


def choose(names: Iterable[str], of: str, variant: str = "") -> list[str]:
    """The files to take, sorted: the weights, and what goes with safetensors.

    of: the model's name, for the message
    variant: picks one of several GGUF files by a part of its name
    Raises ModelUnfit when there are no weights to serve, or no telling which.
    """
    fit = sorted(name for name in names if is_file_name(name))
    if variant:
        return [_only_gguf(fit, of, variant)]
    weights = _safetensors(fit)
    if not weights:
        return [_only_gguf(fit, of)]
    if CONFIG_FILE not in fit:
        raise ModelUnfit(of, "has no config.json beside its weights")
    modules = [name for name in fit if "/" in name and name.endswith(".safetensors")]
    small = [name for name in fit if name.endswith(_SMALL) and not name.endswith(_OF_PICKLES)]
    return sorted({*weights, *modules, *small})


def _safetensors(names: list[str]) -> list[str]:
    """One file, or the shards; beside shards, other safetensors are most often the same weights once more."""
    if SINGLE_FILE in names:
        return [SINGLE_FILE]
    if INDEX_FILE not in names:
        return []
    files = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    return [name for name in files if _SHARD.fullmatch(name)] or files or [INDEX_FILE]


def _only_gguf(names: list[str], of: str, variant: str = "") -> str:
    ggufs = [name for name in names if name.lower().endswith(".gguf") and "/" not in name]
    matching = [name for name in ggufs if variant.lower() in name.lower()]
    if len(matching) == 1:
        return matching[0]
    if not ggufs:
        raise ModelUnfit(of, f"has no weights that can be served ({SINGLE_FILE}, {INDEX_FILE} or a .gguf file)")
    shown = ", ".join((matching or ggufs)[:8])
    raise ModelUnfit(of, f"has {len(matching)} fitting GGUF files: name one as org/name:PART, from {shown}")


def missing_file(folder: ModelFolder) -> str | None:
    """The first file that a safetensors folder lacks, or None for a whole one. Raises CheckpointError."""
    needed = [CONFIG_FILE, *([SINGLE_FILE] if folder.has(SINGLE_FILE) else [INDEX_FILE, *shard_names(folder)])]
    return next((name for name in needed if not (folder.has(name) and folder.file(name).is_file())), None)


def shard_names(folder: ModelFolder) -> list[str]:
    """The weight files that the folder's index names, sorted; none without an index. Raises CheckpointError."""
    if not folder.has(INDEX_FILE):
        return []
    weight_map: Any = folder.json(INDEX_FILE, _MAX_INDEX_BYTES).get("weight_map")
    values = weight_map.values() if isinstance(weight_map, dict) else ()
    return sorted({name for name in values if isinstance(name, str)})
