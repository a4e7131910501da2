"""The small file that makes a folder a stored model: what it is, where it came from, what belongs to it."""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from engine.checkpoint.folder import ModelFolder
from engine.errors import CheckpointError
from server.store.model_files import is_file_name
from server.store.stored_model import Format

MANIFEST_FILE = "bramley.json"
_MAX_BYTES = 4 << 20


class FileRecord(msgspec.Struct, frozen=True):
    """One file as it was verified: size in bytes, and the hash of its content in hexadecimal."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """The record of a stored model. files: by name below its folder."""

    id: str
    source: str
    stored: datetime
    files: dict[str, FileRecord]
    task: str = ""
    licence: str = ""
    format_version: Literal[1] = 1

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(record.bytes for record in self.files.values())

    @property
    def gguf_name(self) -> str | None:
        """The file to open, where the model is a GGUF."""
        return next((name for name in self.files if name.lower().endswith(".gguf")), None)

    @property
    def format(self) -> Format:
        """The kind of weights."""
        return "safetensors" if self.gguf_name is None else "gguf"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none that could be trusted."""
    try:
        manifest = msgspec.convert(ModelFolder(folder).json(MANIFEST_FILE, _MAX_BYTES), Manifest)
    except (CheckpointError, msgspec.ValidationError):
        return None
    return manifest if all(is_file_name(name) for name in manifest.files) else None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it through to the disk."""
    with (folder / MANIFEST_FILE).open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
