"""Models where huggingface_hub keeps its downloads. Reads only: never writes, never asks the network.

Layout: models--ORG--NAME/{refs/main, snapshots/COMMIT/, blobs/}; snapshots hold links to blobs.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from engine.checkpoint.folder import ModelFolder, open_file
from engine.errors import CheckpointError
from server.store.errors import StoreError
from server.store.model_files import choose, missing_file, variants
from server.store.model_id import ModelId, parse_model_id
from server.store.stored_model import StoredModel

SOURCE = "Hugging Face cache"
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_PREFIX = "models--"


class HubCache:
    """A view of the cache. root need not exist."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def models(self) -> Iterator[StoredModel]:
        """Every model that is whole; of a repository with several GGUF models each by its variant's name."""
        for name in _names(self._root):
            try:
                model_id = parse_model_id(name.removeprefix(_PREFIX).replace("--", "/"))
            except StoreError:
                continue
            if not name.startswith(_PREFIX):
                continue
            if (model := self.find(model_id)) is not None:
                yield model
            else:
                yield from self._variants(model_id)

    def find(self, model_id: ModelId) -> StoredModel | None:
        """The whole snapshot that `main` means, else the newest whole one, or None. Follows the user's own links."""
        repository = self._repository(model_id)
        if repository is None or _is_loading(repository, self._root / ".locks" / _folder_name(model_id)):
            return None
        found = (_found(model_id, snapshot) for snapshot in _snapshots(repository))
        return next((model for model in found if model is not None), None)

    def _repository(self, model_id: ModelId) -> Path | None:
        """The repository's folder, where a link leads to a folder of the same make."""
        repository = self._root / _folder_name(model_id)
        try:
            return repository.resolve(strict=True) if repository.is_dir() else None
        except OSError:
            return None

    def _variants(self, model_id: ModelId) -> Iterator[StoredModel]:
        repository = self._repository(model_id)
        snapshot = None if repository is None else next(iter(_snapshots(repository)), None)
        for variant in () if snapshot is None else variants(_files(ModelFolder(snapshot))):
            if (model := self.find(replace(model_id, variant=variant))) is not None:
                yield model


def _found(model_id: ModelId, snapshot: Path) -> StoredModel | None:
    try:
        return _model(model_id, snapshot)
    except (CheckpointError, StoreError, OSError):
        return None


def _model(model_id: ModelId, snapshot: Path) -> StoredModel | None:
    folder = ModelFolder(snapshot)
    names = choose(_files(folder), model_id.repository, model_id.variant)
    paths = [_path(folder, name) for name in names]
    num_bytes = sum(path.stat().st_size for path in paths)
    created = int(snapshot.stat().st_mtime)
    if names[0].lower().endswith(".gguf"):
        return StoredModel(str(model_id), paths[0], num_bytes, "gguf", SOURCE, created)
    if missing_file(folder) is not None:
        return None
    return StoredModel(str(model_id), snapshot, num_bytes, "safetensors", SOURCE, created)


def _files(folder: ModelFolder) -> list[str]:
    """The names in a snapshot, and those of GGUF files one level down."""
    names, deeper = folder.names(), []
    for name in names:
        if "." not in name and not (folder.file(name)).is_file():
            deeper += [f"{name}/{each}" for each in _ggufs(folder, name)]
    return [*names, *deeper]


def _ggufs(folder: ModelFolder, name: str) -> list[str]:
    try:
        return [each for each in folder.folder(name).names() if each.lower().endswith(".gguf")]
    except CheckpointError:
        return []


def _path(folder: ModelFolder, name: str) -> Path:
    deeper, _, bare = name.rpartition("/")
    return (folder.folder(deeper) if deeper else folder).file(bare)


def _snapshots(repository: Path) -> list[Path]:
    """The snapshot that `main` means, then the others, the newest first."""
    folder = repository / "snapshots"
    commits = [name for name in _names(folder) if _COMMIT.fullmatch(name) and _is_inside(folder / name, repository)]
    main = _main_commit(repository)
    return sorted((folder / name for name in commits), key=lambda path: (path.name != main, -path.stat().st_mtime))


def _main_commit(repository: Path) -> str | None:
    reference = repository / "refs" / "main"
    if not reference.is_file() or not _is_inside(reference, repository):
        return None
    with open_file(reference) as file:
        commit = file.read(64).decode("ascii", "replace").strip()
    return commit if _COMMIT.fullmatch(commit) else None


def _folder_name(model_id: ModelId) -> str:
    return _PREFIX + model_id.repository.replace("/", "--")


def _is_loading(repository: Path, locks: Path) -> bool:
    """True while another process fetches a blob: it holds the blob's lock. What an attempt left over is no sign."""
    names = (name.partition(".")[0] for name in _names(repository / "blobs") if name.endswith(".incomplete"))
    return any(_is_held(locks / f"{name}.lock") for name in names)


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208  # names are wanted, not paths
    except OSError:
        return []


def _is_inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())
