"""Compare a model's files with the checksums recorded when they were stored. Reads every byte; loads nothing.

A model of the store has its checksums in its manifest, one of the Hugging Face cache in the names of its blobs.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.progress import Progress, Report
from server.sizes import megabytes
from server.store.errors import ModelUnfit
from server.store.store import Store

_CHUNK_BYTES = 4 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_GIT_HASH = re.compile(r"[0-9a-f]{40}", re.ASCII)


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """A file and its recorded checksum.

    num_bytes: the recorded size; None where only the checksum is recorded
    git: the checksum is git's, over a header and the content
    """

    name: str
    path: Path
    checksum: str
    num_bytes: int | None = None
    git: bool = False


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged file, and its damage in words that continue the file's name."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verified:
    """The result for one model: the number of its files, their bytes, and the damaged files."""

    id: str
    num_files: int
    num_bytes: int
    damaged: tuple[Damage, ...]

    def in_words(self) -> list[str]:
        """A line for the model, or one per damaged file."""
        if not self.damaged:
            return [
                f"{self.id} is whole: {megabytes(self.num_bytes)} in {self.num_files} file{'s'[: self.num_files - 1]}."
            ]
        again = f"`bramley rm {self.id}` and `bramley pull {self.id}` bring it back"
        return [f"{self.id}: {each.file} {each.reason}; {again}." for each in self.damaged]


def can_be_verified(store: Store) -> list[str]:
    """Ids of all models that have checksums, damaged ones too."""
    own = [manifest.id for folder in store.folders() if (manifest := store.manifest(folder)) is not None]
    return own + [model.id for model in store.list() if model.id not in own and any(_recorded_files(model.id, store))]


def verify(name: str, store: Store, report: Report) -> Verified:
    """Read all files of a model and compare. Raises ModelNotFound, and ModelUnfit where no checksums are known."""
    model_id = str(store.resolve(name))
    recorded = _recorded_files(name, store)
    if not recorded:
        raise ModelUnfit(name, "has no recorded checksums to compare with")
    total_bytes = sum(_size(file.path) for file in recorded)
    done_bytes, damaged = 0, []
    for file in recorded:
        reason = _reason(file, Progress("verifying", done_bytes, total_bytes, "bytes"), report)
        done_bytes += _size(file.path)
        if reason:
            damaged.append(Damage(file.name, reason))
    return Verified(model_id, len(recorded), total_bytes, tuple(damaged))


def _recorded_files(name: str, store: Store) -> Sequence[RecordedFile]:
    folder = store.folder(store.resolve(name))
    manifest = store.manifest(folder)
    if manifest is not None:
        return [
            RecordedFile(file, folder / file, record.sha256, record.bytes)
            for file, record in sorted(manifest.files.items())
        ]
    found = store.find(name)
    files = [found.path] if found.path.is_file() or found.path.is_symlink() else sorted(found.path.rglob("*"))
    return list(_blobs(files, found.path))


def _blobs(files: Sequence[Path], root: Path) -> Iterator[RecordedFile]:
    """The files behind a snapshot's links, which are named after the hash of their content."""
    for path in files:
        blob = path.resolve()
        if not blob.is_file():
            continue
        name = path.name if path == root else str(path.relative_to(root))
        sha256 = blob.name.removeprefix("sha256-")
        if _SHA256.fullmatch(sha256):
            yield RecordedFile(name, blob, sha256)
        elif _GIT_HASH.fullmatch(blob.name):
            yield RecordedFile(name, blob, blob.name, git=True)


def _reason(file: RecordedFile, progress: Progress, report: Report) -> str:
    """The difference in words; "" where the file is whole."""
    try:
        num_bytes = file.path.stat().st_size
        if file.num_bytes is not None and num_bytes != file.num_bytes:
            return f"is {num_bytes} bytes long, not {file.num_bytes}"
        digest: _Digest = hashlib.sha256()
        if file.git:
            digest = hashlib.sha1(f"blob {num_bytes}\0".encode(), usedforsecurity=False)
        _feed(digest, file.path, progress, report)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if digest.hexdigest() == file.checksum else "has another checksum than when it came"


def _feed(digest: _Digest, path: Path, progress: Progress, report: Report) -> None:
    done_bytes = progress.done
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
            done_bytes += len(chunk)
            report(Progress(progress.stage, done_bytes, progress.total, "bytes"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
