"""Models where Ollama keeps its own: manifests that name blobs, of which one is a GGUF. Reads only.

Layout: manifests/HOST/NAMESPACE/NAME/TAG is JSON with layers; blobs/sha256-HASH are the layers' files. A model of
its library has the organisation `ollama` here: `ollama/llama3.2:3b`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.checkpoint.folder import ModelFolder
from engine.errors import CheckpointError
from server.store.errors import StoreError
from server.store.model_id import ModelId, parse_model_id
from server.store.stored_model import StoredModel

SOURCE = "Ollama"
_HOSTS = ("registry.ollama.ai", "hf.co", "huggingface.co")
_LIBRARY, _ORGANISATION, _DEFAULT_TAG = "library", "ollama", "latest"
_MODEL, _ADAPTER = "application/vnd.ollama.image.model", "application/vnd.ollama.image.adapter"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
_MAX_MANIFEST_BYTES = 1 << 20


class Ollama:
    """A view of its folders. None need exist."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = roots

    def models(self) -> Iterator[StoredModel]:
        """Every whole model, by name and tag."""
        seen: set[str] = set()
        for root in self._roots:
            for host in _HOSTS:
                for path in sorted((root / "manifests" / host).glob("*/*/*")):
                    model = self._named(*path.parts[-3:])
                    if model is not None and model.id not in seen:
                        seen.add(model.id)
                        yield model

    def find(self, model_id: ModelId) -> StoredModel | None:
        """The model of this name and tag, `latest` where none is given; or None."""
        if not model_id.organisation:
            return None
        namespace = _LIBRARY if model_id.organisation == _ORGANISATION else model_id.organisation
        tag = model_id.variant or _DEFAULT_TAG
        for root in self._roots:
            for host in _HOSTS:
                manifest = root / "manifests" / host / namespace / model_id.name / tag
                if manifest.is_file() and (model := _model(model_id, root, manifest)) is not None:
                    return model
        return None

    def _named(self, namespace: str, name: str, tag: str) -> StoredModel | None:
        organisation = _ORGANISATION if namespace == _LIBRARY else namespace
        try:
            return self.find(replace(parse_model_id(f"{organisation}/{name}"), variant=tag))
        except StoreError:
            return None


def _model(model_id: ModelId, root: Path, manifest: Path) -> StoredModel | None:
    try:
        layers: Any = ModelFolder(manifest.parent).json(manifest.name, _MAX_MANIFEST_BYTES).get("layers")
        blob = _blob(root / "blobs", layers if isinstance(layers, list) else [])
        if blob is None:
            return None
        parse_model_id(str(model_id))
        return StoredModel(str(model_id), blob, blob.stat().st_size, "gguf", SOURCE, int(manifest.stat().st_mtime))
    except (CheckpointError, StoreError, OSError):
        return None


def _blob(blobs: Path, layers: Sequence[Any]) -> Path | None:
    """The file of the only model layer; None where there are several, an adapter, or a file of another size."""
    named = [layer for layer in layers if isinstance(layer, dict)]
    models = [layer for layer in named if layer.get("mediaType") == _MODEL]
    if len(models) != 1 or any(layer.get("mediaType") == _ADAPTER for layer in named):
        return None
    digest = _DIGEST.fullmatch(str(models[0].get("digest")))
    blob = None if digest is None else blobs / f"sha256-{digest[1]}"
    return blob if blob is not None and blob.is_file() and blob.stat().st_size == models[0].get("size") else None
