"""Which files of a repository or folder make the model, and whether they are all there. Names only; no file formats.

Weights are safetensors or one GGUF. Pickles and Python files are never among them.
"""

import re
from collections.abc import Iterable

from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.gguf_parts import is_projector
from engine.checkpoint.shards import INDEX_FILE, SINGLE_FILE, shard_set, split_parts, weight_files
from server.store.errors import ModelUnfit

CONFIG_FILE = "config.json"
# Sentence-transformers keep the modules after the transformer in numbered folders.
_MODULE_FOLDER = r"\d{1,2}_[A-Za-z]{1,32}"
_FILE = r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,199}"
# Large GGUF models lie in a folder each, which is named after the kind of their weights.
_NAME = re.compile(rf"(?:{_MODULE_FOLDER}/)?{_FILE}|{_FILE}/{_FILE}\.gguf", re.ASCII)
_PART_NUMBER = re.compile(r"-\d{5}-of-\d{5}$", re.ASCII)
_KIND = re.compile(r"[-._]((?:UD-|i1-)?(?:I?Q\d\w*|TQ\d\w*|MXFP4\w*|BF16|F16|FP16|F32))$", re.IGNORECASE | re.ASCII)
_SMALL = (".json", ".jinja", ".txt", ".model")
_OF_PICKLES = ".bin.index.json"
_SHARD = re.compile(r"[^/]+-\d{5}-of-\d{5}\.safetensors", re.ASCII)


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
        return _only_gguf(fit, of, variant)
    weights = _safetensors(fit)
    if not weights:
        return _only_gguf(fit, of)
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
        return shard_set(names)
    files = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    return [name for name in files if _SHARD.fullmatch(name)] or files or [INDEX_FILE]


def _only_gguf(names: list[str], of: str, variant: str = "") -> list[str]:
    """The file of one GGUF model, or all its parts."""
    models = [name for name in _first_parts(names) if variant or not is_projector(name)]
    matching = fitting(models, variant) if variant else models
    if len(matching) == 1:
        folder, slash, name = matching[0].rpartition("/")
        return [folder + slash + part for part in split_parts(name) or [name]]
    if not models:
        raise ModelUnfit(of, f"has no weights that can be served ({SINGLE_FILE}, {INDEX_FILE} or a .gguf file)")
    shown = ", ".join((matching or models)[:8])
    raise ModelUnfit(of, f"has {len(matching)} fitting GGUF files: name one as org/name:PART, from {shown}")


def fitting(names: list[str], variant: str) -> list[str]:
    """The files that a variant means: those that have it as a part of their own, before those that contain it.

    `Q6_K` means x-Q6_K.gguf and not x-Q6_K_L.gguf; `Q4_0` means x-Q4_0.gguf and not x-UD-Q4_0.gguf.
    """
    part = re.escape(variant)
    own = re.compile(rf"(?<![A-Za-z0-9_]){part}(?![A-Za-z0-9_])", re.IGNORECASE)
    plain = re.compile(rf"(?<![A-Za-z0-9_])(?<!UD-)(?<!i1-)(?<!imat-){part}(?![A-Za-z0-9_])", re.IGNORECASE)
    for pattern in (plain, own):
        if found := [name for name in names if pattern.search(name.rpartition("/")[2])]:
            return found
    return [name for name in names if variant.lower() in name.lower()]


def variants(names: Iterable[str]) -> list[str]:
    """The variants of a repository with several GGUF models: the kinds of weights, as their names end."""
    models = [name for name in _first_parts(sorted(names)) if is_file_name(name) and not is_projector(name)]
    stems = [_PART_NUMBER.sub("", name.rpartition("/")[2][: -len(".gguf")]) for name in models]
    return sorted({match[1] for stem in stems if (match := _KIND.search(stem))})


def _first_parts(names: list[str]) -> list[str]:
    """Every whole GGUF model by its only or first file."""
    present = set(names)
    firsts: dict[str, None] = {}
    for name in names:
        if name.lower().endswith(".gguf"):
            folder, slash, bare = name.rpartition("/")
            parts = [folder + slash + part for part in split_parts(bare)] or [name]
            if present.issuperset(parts):
                firsts[parts[0]] = None
    return list(firsts)


def missing_file(folder: ModelFolder) -> str | None:
    """The first file that a safetensors folder lacks, or None for a whole one. Raises CheckpointError."""
    needed = [CONFIG_FILE, *(weight_files(folder) or [SINGLE_FILE])]
    return next((name for name in needed if not (folder.has(name) and folder.file(name).is_file())), None)
