"""Where a command's new model goes: into the store under a name, or to a path; there whole or not at all."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from server.cli.find import model_here
from server.store.local_source import local_path
from server.store.manifest import FileRecord, Manifest, write_manifest
from server.store.model_id import ModelId, model_id_of_file, parse_model_id
from server.store.staging import Staging, as_store_errors
from server.store.store import Store
from server.store.stored_model import StoredModel

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class NewModel:
    """A place for a model that is about to be written.

    name: an id of the store, or a path; paths begin with ".", "/" or "~", or have a separator after a folder that is
        there
    path: the folder to write, which is not there yet
    """

    name: str
    path: Path


@contextmanager
def new_model(output: str, store: Store, made_from: StoredModel, how: str) -> Iterator[NewModel]:
    """A folder to write to in the block. When it ends, the model is at its place, in the store's list too.

    output: the new model's name or path
    how: what was done to the model that it was made from, for the list
    Raises StoreError before anything is done when the place is taken.
    """
    path = _path(output)
    if path is not None:
        yield NewModel(output, path)
        return
    model_id = parse_model_id(output)
    store.require_new(model_id)
    target = store.claim(model_id)
    with as_store_errors(store.root), Staging(store.root, model_id) as staging, staging.fresh_workspace("new") as space:
        yield NewModel(str(model_id), space / "model")
        _add_manifest(space / "model", model_id, f"{made_from.id}, {how}", made_from.task)
        staging.publish(space / "model", target)


def name_after(model: StoredModel, suffix: str) -> str:
    """The store's name of a model that is made from another: "smollm2-135m" and "4bit" are "smollm2-135m-4bit"."""
    repository, _, variant = model.id.partition(":")
    return "-".join(part for part in (repository, variant, suffix) if part)


def _path(output: str) -> Path | None:
    path = Path(output).expanduser()
    if output.startswith((".", "/", "~")) or ("/" in output and path.parent.is_dir()):
        return path.absolute()
    return None


def _add_manifest(folder: Path, model_id: ModelId, source: str, task: str) -> None:
    files = {str(path.relative_to(folder)): _record(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    stored = datetime.now(UTC).replace(microsecond=0)
    write_manifest(folder, Manifest(id=str(model_id), source=source, stored=stored, files=files, task=task))


def _record(path: Path) -> FileRecord:
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    return FileRecord(num_bytes, digest.hexdigest())


def source_of(name: str, store: Store) -> StoredModel:
    """The model to make another from, fetched where it is not here; at a path, whatever lies there.

    Raises StoreError.
    """
    path = local_path(name)
    if path is None:
        return model_here(name, store)
    model_id = model_id_of_file(path.stem if path.suffix.lower() == ".gguf" else path.name)
    return StoredModel(str(model_id), path, 0, "safetensors", source="this machine", created=0)
