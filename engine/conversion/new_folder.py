"""A folder that appears whole or not at all: written under a hidden name beside its own, then renamed. Knows no model.

The hidden folder is locked while it is written. One that a killed process has left is emptied by the next.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.conversion.errors import OutputBusy, OutputExists, OutputFull, OutputUnwritable

# What a file system needs besides the bytes of the files.
SPARE_BYTES = 16 << 20

FreeBytes = Callable[[Path], int]


def free_bytes_of(folder: Path) -> int:
    """Bytes that may still be written to the disk of this folder."""
    return shutil.disk_usage(folder).free


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder to write to; it becomes `target` when the block ends, and is gone when the block raises.

    Raises OutputExists, OutputBusy, OutputFull and OutputUnwritable, also for what the block gets to hear from the
    operating system about files below the folder.
    """
    hidden = target.parent / f".{target.name}.partial"
    try:
        if os.path.lexists(target):
            raise OutputExists(target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(hidden, target.name):
            try:
                _empty(hidden)
                yield hidden
                _publish(hidden, target)
            except BaseException:
                shutil.rmtree(hidden, ignore_errors=True)
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputFull(None, _free_bytes(target)) from None
        raise OutputUnwritable(target.name, error.strerror or type(error).__name__) from error


def require_space(folder: Path, need_bytes: int, free_bytes: FreeBytes = free_bytes_of) -> None:
    """Raise OutputFull when that many bytes and some spare ones do not fit on the folder's disk."""
    have_bytes = free_bytes(folder)
    if need_bytes + SPARE_BYTES > have_bytes:
        raise OutputFull(need_bytes + SPARE_BYTES, have_bytes)


@contextmanager
def _locked(hidden: Path, name: str) -> Iterator[None]:
    hidden.mkdir(exist_ok=True)
    descriptor = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputBusy(name) from None
        # Another process may have published or deleted the folder between mkdir and the lock.
        if not hidden.exists() or not os.path.samestat(os.fstat(descriptor), hidden.stat()):
            raise OutputBusy(name)
        yield
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _publish(hidden: Path, target: Path) -> None:
    for path in hidden.rglob("*"):
        _sync(path)
    _sync(hidden)
    if os.path.lexists(target):
        raise OutputExists(target.name)
    hidden.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Have the disk hold what was written to a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_bytes(target: Path) -> int:
    place = next(parent for parent in target.absolute().parents if parent.exists())
    return free_bytes_of(place)
