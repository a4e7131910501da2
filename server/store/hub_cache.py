"""Models where huggingface_hub keeps its downloads. Reads only: never writes, never asks the network.

Layout: models--ORG--NAME/{refs/main, snapshots/COMMIT/, blobs/}; snapshots hold links to blobs.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from engine.checkpoint.folder import ModelFolder, open_file
from engine.errors import CheckpointError
from server.store.errors import StoreError
from server.store.model_files import choose, missing_file
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
        """Every model that is whole and can be served by its repository's name alone."""
        for name in _names(self._root):
            try:
                model_id = parse_model_id(name.removeprefix(_PREFIX).replace("--", "/"))
            except StoreError:
                continue
            if name.startswith(_PREFIX) and (model := self.find(model_id)) is not None:
                yield model

    def find(self, model_id: ModelId) -> StoredModel | None:
        """The newest whole snapshot of a repository, or None."""
        repository = self._root / (_PREFIX + model_id.repository.replace("/", "--"))
        if not _is_inside(repository, self._root):
            return None
        try:
            snapshot = _snapshot(repository)
            return None if snapshot is None or _is_loading(repository) else _model(model_id, snapshot)
        except (CheckpointError, StoreError, OSError):
            return None


def _model(model_id: ModelId, snapshot: Path) -> StoredModel | None:
    folder = ModelFolder(snapshot)
    names = choose(folder.names(), model_id.repository, model_id.variant)
    paths = [folder.file(name) for name in names]
    num_bytes = sum(path.stat().st_size for path in paths)
    created = int(snapshot.stat().st_mtime)
    if names[0].lower().endswith(".gguf"):
        return StoredModel(str(model_id), paths[0], num_bytes, "gguf", SOURCE, created)
    if missing_file(folder) is not None:
        return None
    return StoredModel(str(model_id), snapshot, num_bytes, "safetensors", SOURCE, created)


def _snapshot(repository: Path) -> Path | None:
    """The snapshot that `main` means, or the only one there is."""
    snapshots = repository / "snapshots"
    commits = [name for name in _names(snapshots) if _COMMIT.fullmatch(name)]
    main = _main_commit(repository)
    if main is None and len(commits) == 1:
        main = commits[0]
    return snapshots / main if main in commits and _is_inside(snapshots / main, repository) else None


def _main_commit(repository: Path) -> str | None:
    reference = repository / "refs" / "main"
    if not reference.is_file() or not _is_inside(reference, repository):
        return None
    with open_file(reference) as file:
        commit = file.read(64).decode("ascii", "replace").strip()
    return commit if _COMMIT.fullmatch(commit) else None


def _is_loading(repository: Path) -> bool:
    """True while a blob is on its way. A leftover of an attempt that was repeated with success does not count."""
    names = set(_names(repository / "blobs"))
    return any(name.endswith(".incomplete") and name.partition(".")[0] not in names for name in names)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208  # names are wanted, not paths
    except OSError:
        return []


def _is_inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())
