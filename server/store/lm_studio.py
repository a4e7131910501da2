"""Models where LM Studio keeps its downloads: PUBLISHER/NAME/ with GGUF files, or a folder for MLX. Reads only."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from engine.checkpoint.folder import ModelFolder
from engine.errors import CheckpointError
from server.store.errors import StoreError
from server.store.model_files import choose, missing_file, variants
from server.store.model_id import ModelId, parse_model_id
from server.store.stored_model import StoredModel

SOURCE = "LM Studio"
_MAX_PUBLISHERS = 1000


class LMStudio:
    """A view of its folders, the first before the second. None need exist."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = roots

    def models(self) -> Iterator[StoredModel]:
        """Every whole model; of a folder with several GGUF models each by its variant's name."""
        for folder in self._folders():
            try:
                model_id = parse_model_id(f"{folder.parent.name}/{folder.name}")
                several = [replace(model_id, variant=each) for each in variants(ModelFolder(folder).names())]
            except (StoreError, CheckpointError):
                continue
            if (model := self.find(model_id)) is not None:
                yield model
            else:
                yield from (model for each in several if (model := self.find(each)) is not None)

    def find(self, model_id: ModelId) -> StoredModel | None:
        """The model of this publisher and name, or None."""
        places = (root / model_id.organisation / model_id.name for root in self._roots if model_id.organisation)
        found = (_model(model_id, place) for place in places if place.is_dir())
        return next((model for model in found if model is not None), None)

    def _folders(self) -> Iterator[Path]:
        for root in self._roots:
            for publisher in _folders_in(root)[:_MAX_PUBLISHERS]:
                yield from _folders_in(publisher)


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _model(model_id: ModelId, place: Path) -> StoredModel | None:
    try:
        folder = ModelFolder(place)
        names = choose(folder.names(), model_id.repository, model_id.variant)
        num_bytes = sum((place / name).stat().st_size for name in names)
        created = int(place.stat().st_mtime)
        if names[0].lower().endswith(".gguf"):
            return StoredModel(str(model_id), place / names[0], num_bytes, "gguf", SOURCE, created)
        whole = missing_file(folder) is None
    except (CheckpointError, StoreError, OSError):
        return None
    return StoredModel(str(model_id), place, num_bytes, "safetensors", SOURCE, created) if whole else None
