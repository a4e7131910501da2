"""Blocks of keys and values in files, which survive a restart. Knows content and names; the tree above it is prefix.py.

A file is named by the digest of its tokens and all before them, under a folder per model and format. It is written to a
temporary name and renamed. Whatever is wrong with a file makes it a miss, and the file is removed.
"""

import contextlib
import hashlib
import json
import logging
import os
import queue
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from engine.cache.layout import Content
from engine.cache.prefix import Block

_log = logging.getLogger(__name__)

_MAGIC = b"BRKV0001"
_DIGEST_BYTES = 32
_LENGTH = struct.Struct("<I")
_LONGEST_HEADER = 1 << 16
_SUFFIX = ".kv"
_QUEUED_BLOCKS = 64
_READERS = 4
_DTYPES = {str(dtype).removeprefix("mlx.core."): dtype for dtype in (mx.float32, mx.float16, mx.bfloat16, mx.uint32)}

DiskBlock = Block[Content]


class DiskTier:
    """A folder of blocks under a byte budget, the least recently used of which go first.

    folder: of one model in one format; nobody else writes there
    limit_bytes: of all files together
    num_damaged: files that were refused, and blocks that could not be written

    One thread writes; what it cannot keep up with is not kept. Reading is done by whoever asks, with the help of a few
    threads where it is known what will be asked for next. Raises OSError for a folder that cannot be had or listed.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.num_damaged = 0
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._sizes: dict[str, int] = {}
        self._told: set[str] = set()
        self._queue: queue.Queue[tuple[str, list[bytes | memoryview]] | None] = queue.Queue(_QUEUED_BLOCKS)
        self._lock = threading.Lock()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="prefix store reader")
        self._ahead: dict[str, Future[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._thread = threading.Thread(target=self._write_for_ever, name="prefix store writer", daemon=True)
        self._thread.start()

    def write(self, block: DiskBlock) -> None:
        """Queue a block for writing; its content must be computed."""
        if block.content is None:
            return
        try:
            self._queue.put_nowait((_name(block), _frame(block, block.content)))
        except queue.Full:
            block.stored = False

    def read(self, block: DiskBlock) -> Content | None:
        """The content, or None when the file is gone, damaged or another's."""
        name = _name(block)
        path, ahead = self._path(name), self._ahead.pop(name, None)
        try:
            data = _checked(path) if ahead is None else ahead.result()
            content = _content(data, block)
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            self._refuse(path, error)
            return None
        with contextlib.suppress(OSError):  # in a folder that may only be read, its age stays as it is
            os.utime(path)
        return content

    def read_ahead(self, blocks: Sequence[DiskBlock]) -> None:
        """Begin to read and check the files of these blocks, which are about to be asked for; forgets others' files."""
        names = [_name(block) for block in blocks]
        self._ahead = {name: self._readers.submit(_checked, self._path(name)) for name in names}

    def known(self) -> Iterator[tuple[list[tuple[int, ...]], bool]]:
        """The blocks in the folder, parents first: the tokens of each and of those before it, and if it is a state."""
        headers: dict[str, tuple[str, tuple[int, ...], bool]] = {}
        for path in self._files():
            try:
                headers[path.name.removesuffix(_SUFFIX)] = _read_header(path)
                self._sizes[path.name] = path.stat().st_size
            except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
                self._refuse(path, error)
        paths: dict[str, list[tuple[int, ...]]] = {"": []}
        waiting: dict[str, list[str]] = {}
        for name, (parent, _, _) in headers.items():
            waiting.setdefault(parent, []).append(name)
        ready = [""]
        while ready:
            parent = ready.pop()
            for name in waiting.get(parent, []):
                paths[name] = [*paths[parent], headers[name][1]]
                yield paths[name], headers[name][2]
                ready.append(name)

    def close(self) -> None:
        """Write what is queued, and stop."""
        self._readers.shutdown(cancel_futures=True)
        self._queue.put(None)
        self._thread.join()

    def _path(self, name: str) -> Path:
        return self._folder / (name + _SUFFIX)

    def _files(self) -> list[Path]:
        """Oldest use first; what a killed writer left is removed."""
        found = []
        for path in self._folder.iterdir():
            if path.suffix == _SUFFIX and path.is_file() and not path.is_symlink():
                found.append((path.stat().st_mtime_ns, path))
            elif path.name.startswith("."):
                _delete(path)
        return [path for _, path in sorted(found)]

    def _refuse(self, path: Path, error: Exception) -> None:
        if isinstance(error, FileNotFoundError):
            return
        self.num_damaged += 1
        self._tell("a stored block is of no use: %s", type(error).__name__)
        _delete(path)

    def _tell(self, message: str, reason: str | None) -> None:
        """One line for each kind of trouble; the count tells of the rest."""
        if message not in self._told:
            self._told.add(message)
            _log.warning(message, reason)

    def _write_for_ever(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._write_file(*item)
            except OSError as error:
                self.num_damaged += 1
                self._tell("a block could not be stored, and others may follow: %s", error.strerror)

    def _write_file(self, name: str, parts: list[bytes | memoryview]) -> None:
        path = self._path(name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.writelines(parts)
            temporary.replace(path)
        except OSError:
            _delete(temporary)  # of a full disk it is the last free room
            raise
        self._sizes[path.name] = sum(len(part) for part in parts)
        self._shrink()

    def _shrink(self) -> None:
        if sum(self._sizes.values()) <= self._limit_bytes:
            return
        for path in self._files():
            if sum(self._sizes.values()) <= 0.9 * self._limit_bytes:
                return
            _delete(path)
            self._sizes.pop(path.name, None)


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _name(block: DiskBlock) -> str:
    """A digest of the block's tokens and all before them."""
    digest = ""
    for each in block.path:
        kind = b"state" if each.is_snapshot else b""
        digest = hashlib.sha256(kind + digest.encode() + np.array(each.tokens, np.int64).tobytes()).hexdigest()
    return digest


def _frame(block: DiskBlock, content: Content) -> list[bytes | memoryview]:
    """Magic, digest of the rest, length of the header, header, arrays."""
    arrays = [np.array(stack.view(mx.uint8), copy=False).data.cast("B") for stack in content.stacks]
    header = json.dumps(
        {
            "parent": _name(block.parent) if block.parent is not None and block.parent.parent is not None else "",
            "tokens": block.tokens,
            "order": content.order,
            "state": block.is_snapshot,
            "stacks": [[str(stack.dtype).removeprefix("mlx.core."), list(stack.shape)] for stack in content.stacks],
        }
    ).encode()
    rest: list[bytes | memoryview] = [_LENGTH.pack(len(header)), header, *arrays]
    digest = hashlib.sha256()
    for part in rest:
        digest.update(part)
    return [_MAGIC, digest.digest(), *rest]


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the arrays begin."""
    start = len(_MAGIC) + _DIGEST_BYTES + _LENGTH.size
    if len(data) < start or data[: len(_MAGIC)] != _MAGIC:
        raise ValueError("not a block")
    (length,) = _LENGTH.unpack_from(data, start - _LENGTH.size)
    if length > _LONGEST_HEADER or start + length > len(data):
        raise ValueError("header past the end")
    return json.loads(data[start : start + length]), start + length


def _read_header(path: Path) -> tuple[str, tuple[int, ...], bool]:
    with path.open("rb") as file:
        header, _ = _header(file.read(_LONGEST_HEADER + 1024))
    parent, tokens = header["parent"], tuple(header["tokens"])
    if not isinstance(parent, str) or not tokens or not all(isinstance(token, int) for token in tokens):
        raise ValueError("header of another kind")
    return parent, tokens, header.get("state") is True


def _checked(path: Path) -> bytes:
    """A whole file. Raises OSError and ValueError."""
    data = path.read_bytes()
    digest = hashlib.sha256(memoryview(data)[len(_MAGIC) + _DIGEST_BYTES :]).digest()
    if digest != data[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES]:
        raise ValueError("checksum")
    return data


def _content(data: bytes, block: DiskBlock) -> Content:
    header, start = _header(data)
    if tuple(header["tokens"]) != block.tokens:
        raise ValueError("other tokens")
    stacks = []
    for name, shape in header["stacks"]:
        dtype = _DTYPES[name]
        num_bytes = dtype.size * int(np.prod(shape))
        # MLX copies whole words several times as fast as bytes.
        word = np.uint32 if num_bytes % 4 == 0 else np.uint8
        raw = np.frombuffer(data, word, num_bytes // np.dtype(word).itemsize, start)
        stacks.append(mx.array(raw).view(dtype).reshape(shape))
        start += num_bytes
    return Content(tuple(stacks), tuple(header["order"]))
