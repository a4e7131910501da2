"""A GGUF model in one file or in numbered parts (`x-00001-of-00003.gguf`). Knows names and headers; knows no tensor."""

from collections.abc import Iterable
from pathlib import Path

from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.gguf import GGUFHeader, read_header
from engine.checkpoint.json_object import shown
from engine.checkpoint.shards import split_parts
from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointCorrupt, CheckpointNotFound

_PROJECTOR = "mmproj"


def model_ggufs(names: Iterable[str]) -> list[str]:
    """The models among a folder's files, each by its only or first file; projectors of images are none."""
    ggufs = [name for name in names if name.lower().endswith(".gguf") and not is_projector(name)]
    return sorted({(split_parts(name) or [name])[0] for name in ggufs} & set(ggufs))


def is_projector(name: str) -> bool:
    """True for the part of a model that reads images, which is no model by itself."""
    return name.rpartition("/")[2].lower().startswith(_PROJECTOR)


def read_parts(file: Path, folder: ModelFolder | None) -> GGUFHeader:
    """The header of a file, or of all the parts that it is one of, as if they were one file.

    folder: where the other parts are; None for the place beside the file
    Raises CheckpointNotFound for a part that is missing, and as read_header.
    """
    header = read_header(file)
    count = header.metadata.get("split.count", 1)
    if count in (0, 1):
        return header
    names = split_parts(file.name)
    if type(count) is not int or len(names) != count:
        raise CheckpointNotFound(
            file.name,
            f"it is one of {shown(count)} parts, and its name does not tell the others' names",
        )
    parts = [read_header(folder.file(name) if folder else file.parent / name) for name in names]
    tensors: dict[str, TensorEntry] = {}
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        if part.metadata.get("split.no") != number or part.metadata.get("split.count") != count:
            raise CheckpointCorrupt(name, f"its metadata does not say that it is part {number + 1} of {count}")
        if twice := tensors.keys() & part.tensors.keys():
            raise CheckpointCorrupt(name, f"tensor {shown(min(twice))} is also in another part of the model")
        tensors |= part.tensors
    total = parts[0].metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise CheckpointCorrupt(names[0], f"it claims {shown(total)} tensors in all parts, which have {len(tensors)}")
    return GGUFHeader(parts[0].metadata, tensors)
