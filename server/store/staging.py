"""Where one model is put together before it is in the store: a lock, a hidden folder, and one rename at the end.

ROOT/.partial/NAME.lock is held by the process at work on that model and by the system given up when the process ends,
however it ends. ROOT/.partial/NAME/ survives, so that an interrupted download goes on.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.progress import Progress, Report
from server.store.errors import DiskFull, StoreBusy, StoreUnusable
from server.store.model_id import ModelId

PARTIAL = ".partial"
# What a file system needs besides the bytes of the files.
SPARE_BYTES = 16 << 20

FreeBytes = Callable[[Path], int]


def free_bytes_of(folder: Path) -> int:
    """Bytes that may still be written to the disk of this folder."""
    return shutil.disk_usage(folder).free


class Staging:
    """The hidden place of one model, held by this process from `with` on.

    wait: is told when another process is at work on this model, and that one is waited for; None raises StoreBusy
    """

    def __init__(self, root: Path, model_id: ModelId, *, wait: Report | None = None) -> None:
        self._model_id = model_id
        self._wait = wait
        self._lock_file = root / PARTIAL / f"{model_id.folder_name}.lock"
        self._lock = -1
        self.folder = root / PARTIAL / model_id.folder_name

    def __enter__(self) -> Self:
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            self._acquire()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def _acquire(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if self._wait is None:
                raise StoreBusy(str(self._model_id)) from None
            self._wait(Progress("waiting for another process", 0, 0, "bytes"))
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def workspace(self, name: str) -> Path:
        """The folder of one attempt, with what an earlier one of the same name left in it; all others are deleted."""
        workspace = self.folder / name
        workspace.mkdir(parents=True, exist_ok=True)
        for other in self.folder.iterdir():
            if other != workspace:
                delete(other)
        return workspace

    @contextmanager
    def fresh_workspace(self, name: str) -> Iterator[Path]:
        """An empty folder for what cannot be taken up again: nothing of it is left after a failure."""
        self.clear()
        try:
            yield self.workspace(name)
        except BaseException:
            self.clear()
            raise

    def publish(self, files: Path, target: Path) -> None:
        """Make a folder of files the model at `target`, at once and for good. An older model there is replaced."""
        for path in files.rglob("*"):
            sync(path)
        sync(files)
        self.take_out(target)
        files.rename(target)
        sync(target.parent)
        self.clear()

    def take_out(self, target: Path) -> None:
        """Let the model at `target` be in the store no longer."""
        if target.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            delete(self.folder / "removed")
            target.rename(self.folder / "removed")

    def clear(self) -> None:
        """Delete everything that was put here."""
        delete(self.folder)


@contextmanager
def as_store_errors(root: Path) -> Iterator[None]:
    """Say what the operating system refused in one sentence. Raises DiskFull and StoreUnusable."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(None, free_bytes_of(root)) from None
        raise StoreUnusable(error.strerror or type(error).__name__) from None


def require_space(folder: Path, need_bytes: int, free_bytes: FreeBytes) -> None:
    """Raise DiskFull when that many bytes and some spare ones do not fit on the folder's disk."""
    have_bytes = free_bytes(folder)
    if need_bytes + SPARE_BYTES > have_bytes:
        raise DiskFull(need_bytes + SPARE_BYTES, have_bytes)


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Delete a file or a folder with all that is in it, where it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
