"""The folder of models: list, find, remove. A model is in it when it is whole; how it got there is pull.py's.

ROOT/FOLDER/bramley.json is a model's manifest. ROOT/.partial/ is where models are put together, see staging.py.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Protocol

from server.store.catalog import Catalog, shipped_catalog
from server.store.errors import ModelExists, ModelIdInvalid, ModelNotFound, ModelUnfit
from server.store.hub_cache import SOURCE as HUB_CACHE
from server.store.hub_cache import HubCache
from server.store.manifest import Manifest, read_manifest
from server.store.model_id import ModelId, parse_model_id
from server.store.ollama import SOURCE as OLLAMA
from server.store.staging import PARTIAL, Staging, as_store_errors
from server.store.stored_model import StoredModel

_REMOVED_BY = {
    HUB_CACHE: "belongs to the Hugging Face cache: remove it with `hf cache rm`",
    OLLAMA: "belongs to Ollama: remove it with `ollama rm`",
}


class OtherPlace(Protocol):
    """A place where another program keeps models."""

    def models(self) -> Iterator[StoredModel]:
        """Every whole model."""

    def find(self, model_id: ModelId) -> StoredModel | None:
        """The whole model of that name, or None."""


class Store:
    """The models under one root, and those in the user's Hugging Face cache and other places, which are only read.

    hub_cache: None looks into no cache
    others: further places, the first before the second
    catalog: None takes the one that comes with this package
    """

    def __init__(
        self,
        root: Path,
        hub_cache: Path | None = None,
        catalog: Catalog | None = None,
        others: Sequence[OtherPlace] = (),
    ) -> None:
        self.root = root
        self._others = [*(() if hub_cache is None else (HubCache(hub_cache),)), *others]
        self._catalog = catalog

    @cached_property
    def catalog(self) -> Catalog:
        """The models that can be pulled by id."""
        return shipped_catalog() if self._catalog is None else self._catalog

    def find(self, name: str) -> StoredModel:
        """The whole model of that id, alias or repository. Opens nothing outside of the store and the cache.

        Raises ModelIdInvalid and ModelNotFound.
        """
        model_id = self.resolve(name)
        model = self._stored(self.folder(model_id))
        for place in self._others:
            model = model or place.find(model_id)
        if model is None:
            known = {entry.id: None for entry in self.catalog.models} | {each.id: None for each in self.list()}
            raise ModelNotFound(name, list(known))
        return model

    def resolve(self, name: str) -> ModelId:
        """The id that a name or an alias stands for, whether the model is here or not. Raises ModelIdInvalid."""
        model_id = parse_model_id(name)
        entry = self.catalog.find(name)
        return model_id if entry is None else parse_model_id(entry.id)

    def folder(self, model_id: ModelId) -> Path:
        """Where the model of that id lies or would lie; always a direct child of the root."""
        return self.root / model_id.folder_name

    def remove(self, name: str) -> int:
        """Delete a model, a damaged one or an unfinished download too; returns how many bytes that freed.

        Raises ModelIdInvalid, ModelNotFound, StoreBusy, StoreUnusable, and ModelUnfit for one in the hub's cache.
        """
        model_id = self.resolve(name)
        folder, partial = self.folder(model_id), self.root / PARTIAL / model_id.folder_name
        if self.manifest(folder) is None and not partial.is_dir():
            source = self.find(name).source
            raise ModelUnfit(name, _REMOVED_BY.get(source, f"belongs to {source}: remove it there"))
        with as_store_errors(self.root), Staging(self.root, model_id) as staging:
            if self.manifest(folder) is not None:
                staging.take_out(folder)
            freed_bytes = _num_bytes(staging.folder)
            staging.clear()
        return freed_bytes

    def require_new(self, model_id: ModelId) -> None:
        """Raise ModelExists where a model has this id already."""
        with suppress(ModelNotFound):
            other = self.find(str(model_id))
            raise ModelExists(other.id, other.source)

    def claim(self, model_id: ModelId) -> Path:
        """The folder to publish a model to. Raises ModelUnfit where something else lies in its place."""
        folder = self.folder(model_id)
        if os.path.lexists(folder) and self.manifest(folder) is None:
            raise ModelUnfit(folder.name, "in the models' folder is not Bramley's: move it away first")
        return folder

    def _stored(self, folder: Path) -> StoredModel | None:
        manifest = self.manifest(folder)
        if manifest is None or not _is_whole(folder, manifest):
            return None
        entry = self.catalog.find(manifest.id)
        return StoredModel(
            id=manifest.id,
            path=folder if manifest.gguf_name is None else folder / manifest.gguf_name,
            num_bytes=manifest.num_bytes,
            format=manifest.format,
            source=manifest.source,
            created=int(manifest.stored.timestamp()),
            task=manifest.task,
            aliases=() if entry is None else entry.aliases,
        )

    def manifest(self, folder: Path) -> Manifest | None:
        """The manifest of a real folder directly under the root that bears the id's own folder name."""
        if not folder.is_dir() or folder.resolve() != self.root.resolve() / folder.name:
            return None
        manifest = read_manifest(folder)
        if manifest is None:
            return None
        try:
            return manifest if parse_model_id(manifest.id).folder_name == folder.name else None
        except ModelIdInvalid:
            return None

    def folders(self) -> Sequence[Path]:
        """The entries of the root that are not hidden, models or not."""
        try:
            return sorted(path for path in self.root.iterdir() if not path.name.startswith("."))
        except OSError:
            return ()

    def list(self) -> Sequence[StoredModel]:
        """Every whole model, by id; the store's own before those of the Hugging Face cache."""
        own = [model for folder in self.folders() if (model := self._stored(folder)) is not None]
        by_id = {model.id: model for model in own}
        for place in self._others:
            for model in place.models():
                by_id.setdefault(model.id, model)
        return list(by_id.values())


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    """True when every file is there in its full size, and none is a link."""
    root = folder.resolve()
    return bool(manifest.files) and all(
        (root / name).resolve() == root / name and _size(root / name) == record.bytes
        for name, record in manifest.files.items()
    )


def _size(path: Path) -> int | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size if S_ISREG(state.st_mode) else None


def _num_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
