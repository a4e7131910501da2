"""A model from a folder or a .gguf file of this machine: named on the command line, served in place or copied.

Only the command line may use this: over HTTP a model has a name, never a path.
"""

import hashlib
import re
from pathlib import Path

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.folder import ModelFolder, open_file
from engine.checkpoint.shards import split_parts
from engine.errors import CheckpointCorrupt, CheckpointError, CheckpointUnsupported
from engine.progress import Progress, Report
from server.store.errors import ModelCorrupt, ModelUnfit
from server.store.manifest import FileRecord
from server.store.model_files import choose
from server.store.model_id import ModelId, model_id_of_file
from server.store.source import Delivery
from server.store.staging import FreeBytes, Staging, require_space
from server.store.stored_model import StoredModel

_CHUNK_BYTES = 4 << 20
_PART_NUMBER = re.compile(r"-\d{5}-of-\d{5}$", re.ASCII)


def local_path(name: str) -> Path | None:
    """The path that a word on the command line means, or None for the name of a model.

    Paths begin with ".", "/" or "~", end in ".gguf", or are those of folders that are there and hold a model: a
    config.json or a .gguf file.
    """
    if "\0" in name:
        return None
    path = Path(name).expanduser()
    if name.startswith((".", "/", "~")) or path.suffix.lower() == ".gguf" or _holds_model(path):
        return path.absolute()
    return None


def _holds_model(path: Path) -> bool:
    return (path / "config.json").is_file() or (path.is_dir() and any(path.glob("*.[gG][gG][uU][fF]")))


class LocalSource:
    """A folder or a file. Raises ModelUnfit when there is nothing that could be a model."""

    task = ""
    licence = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            raise ModelUnfit(path.name, "does not exist")
        try:
            self._files = _files(path)
        except CheckpointError as error:
            raise ModelUnfit(path.name, f"is no model: {error}") from None
        gguf = next((file for file in self._files.values() if file.suffix.lower() == ".gguf"), None)
        self._gguf = gguf
        self.model_id: ModelId = model_id_of_file(path.name if path.is_dir() else model_name(path.name))
        self.description = f"copied from {path.name}"

    def in_place(self) -> StoredModel:
        """The model where it lies, for serving without a copy."""
        num_bytes = sum(file.stat().st_size for file in self._files.values())
        return StoredModel(
            id=str(self.model_id),
            path=self._gguf or self._path,
            num_bytes=num_bytes,
            format="gguf" if self._gguf else "safetensors",
            source="this machine",
            created=int(self._path.stat().st_mtime),
        )

    def deliver(self, staging: Staging, report: Report, free_bytes: FreeBytes) -> Delivery:
        """Copy and hash in one pass, then hold the copy's headers against its size."""
        total_bytes = sum(file.stat().st_size for file in self._files.values())
        records: dict[str, FileRecord] = {}
        with staging.fresh_workspace("files") as workspace:
            require_space(workspace, total_bytes, free_bytes)
            for name, file in self._files.items():
                done_bytes = sum(record.bytes for record in records.values())
                records[name] = _copy(
                    file, workspace / name, Progress("copying", done_bytes, total_bytes, "bytes"), report
                )
            _check(workspace / next(iter(records)) if self._gguf else workspace)
        return Delivery(workspace, records)


def _files(path: Path) -> dict[str, Path]:
    """The files to take, by their name below the model's folder."""
    if not path.is_dir():
        with open_file(path):  # raises where it cannot be read
            if path.suffix.lower() != ".gguf":
                raise ModelUnfit(path.name, "is neither a folder nor a .gguf file")
        return {_file_name(part): path.with_name(part) for part in split_parts(path.name) or [path.name]}
    folder = ModelFolder(path)
    names = folder.names()
    modules = [f"{name}/{inner}" for name in names if (path / name).is_dir() for inner in _inside(path / name)]
    chosen = choose([*names, *modules], path.name)
    return {name: ModelFolder((path / name).parent).file((path / name).name) for name in chosen}


def _file_name(name: str) -> str:
    """A valid name for a GGUF file, which keeps the numbers of a part."""
    stem = Path(name).stem
    number = stem[len(model_name(name)) :]
    return f"{model_id_of_file(model_name(name))}{number}.gguf"


def model_name(name: str) -> str:
    """The name of the model that a GGUF file is, or a part of."""
    return _PART_NUMBER.sub("", Path(name).stem)


def _inside(folder: Path) -> list[str]:
    return [] if folder.is_symlink() else ModelFolder(folder).names()


def _copy(source: Path, target: Path, progress: Progress, report: Report) -> FileRecord:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, done_bytes = hashlib.sha256(), 0
    with source.open("rb") as original, target.open("xb") as output:
        while chunk := original.read(_CHUNK_BYTES):
            digest.update(chunk)
            output.write(chunk)
            done_bytes += len(chunk)
            report(Progress(progress.stage, progress.done + done_bytes, progress.total, "bytes"))
    return FileRecord(done_bytes, digest.hexdigest())


def _check(path: Path) -> None:
    try:
        open_checkpoint(path)
    except CheckpointCorrupt as error:
        raise ModelCorrupt(error.file, error.reason) from None
    except CheckpointUnsupported:
        pass  # whole, and of a kind that a later version may serve
    except CheckpointError as error:
        raise ModelUnfit(path.name, f"is no model: {error}") from None
