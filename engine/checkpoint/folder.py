"""Open files of a model folder without leaving it. Knows names, links and sizes; knows no format."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any

from engine.checkpoint.json_object import parse_list, parse_object, shown
from engine.errors import CheckpointCorrupt, CheckpointNotFound, CheckpointUnsupported

_MAX_FILES = 10_000
_BARE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@ -]{0,254}", re.ASCII)
_SHARED_BLOB = re.compile(r"[0-9a-f]{64}", re.ASCII)


class ModelFolder:
    """A folder that holds one model. Only files inside it are opened, or the Hugging Face cache's blobs it links to."""

    def __init__(self, path: Path, model: "ModelFolder | None" = None) -> None:
        self._root = _resolved(path)
        self._model_root: Path = self._root if model is None else model._model_root
        self.name = self._root.name

    def names(self) -> list[str]:
        """The names of its entries, sorted; of the first ten thousand."""
        try:
            with os.scandir(self._root) as entries:
                return sorted(entry.name for entry in islice(entries, _MAX_FILES))
        except OSError as error:
            raise CheckpointNotFound(self.name, f"the folder cannot be read ({error.strerror})") from None

    def has(self, name: str) -> bool:
        """True when there is an entry of this name, even a broken link."""
        return os.path.lexists(self._root / name)

    def file(self, name: str) -> Path:
        """The path of a file that may be opened.

        name: a bare file name; anything with a separator, and a leading dot, is refused
        Raises CheckpointNotFound when it is not there, CheckpointCorrupt when it lies outside of the folder.
        """
        if not _BARE_NAME.fullmatch(name):
            raise CheckpointCorrupt(self.name, f"{shown(name)} is not the name of a file in the model's folder")
        path = self._root / name
        if not self.has(name):
            raise CheckpointNotFound(name, "the model's folder has no such file")
        if not self._contains(path):
            raise CheckpointCorrupt(name, "it is a link to a place outside of the model's folder")
        return path

    def folder(self, name: str) -> "ModelFolder":
        """A folder inside of this one; its files may be where this one's may be. Raises as `file` does."""
        path = self.file(name)
        if not _resolved(path).is_relative_to(self._model_root):
            raise CheckpointCorrupt(name, "it is a link to a place outside of the model's folder")
        return ModelFolder(path, self)

    def json(self, name: str, max_bytes: int) -> dict[str, Any]:
        """A file's JSON object. Raises CheckpointNotFound and CheckpointCorrupt."""
        return parse_object(self._read(name, max_bytes), name)

    def json_list(self, name: str, max_bytes: int) -> list[Any]:
        """A file's JSON list. Raises CheckpointNotFound and CheckpointCorrupt."""
        return parse_list(self._read(name, max_bytes), name)

    def _read(self, name: str, max_bytes: int) -> bytes:
        with open_file(self.file(name)) as file:
            text = file.read(max_bytes + 1)
        if len(text) > max_bytes:
            raise CheckpointUnsupported(f"size of {name}", f"more than {max_bytes} bytes", "smaller files")
        return text

    def _contains(self, path: Path) -> bool:
        target = _resolved(path)
        return target.is_relative_to(self._model_root) or self._is_cached_blob(path, target)

    def _is_cached_blob(self, path: Path, target: Path) -> bool:
        """True for <cache>/models--x/blobs/* and <cache>/blobs/<two digits>/<hash>, seen from a snapshot folder.

        The folder of blobs, and a blob in it, may be links: they are moved to larger disks at times.
        """
        snapshots, repository = self._model_root.parent, self._model_root.parent.parent
        if snapshots.name != "snapshots" or not repository.name.startswith("models--"):
            return False
        blobs = _resolved(repository / "blobs")
        if target.parent == blobs or (path.is_symlink() and _resolved(_next_hop(path).parent) == blobs):
            return True
        shared = repository.parent / "blobs" / target.name[:2]
        return target.parent == shared and _SHARED_BLOB.fullmatch(target.name) is not None


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading; a pipe or a device is refused at once instead of waited for.

    Raises CheckpointNotFound and CheckpointCorrupt, also for read errors inside the block.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:  # Path.open takes no opener
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointCorrupt(path.name, "it is not a regular file")
            yield file
    except FileNotFoundError:
        raise CheckpointNotFound(path.name, "it is missing, or it is a link to a file that is missing") from None
    except OSError as error:
        raise CheckpointCorrupt(path.name, f"it cannot be read ({error.strerror})") from None


def file_bytes(file: BufferedReader) -> int:
    """The size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _next_hop(link: Path) -> Path:
    """The place that a link names, whatever lies there."""
    return Path(os.path.normpath(link.parent / os.readlink(link)))  # noqa: PTH115  # Path.readlink keeps it relative


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise CheckpointCorrupt(path.name, "it is a link to itself") from None
