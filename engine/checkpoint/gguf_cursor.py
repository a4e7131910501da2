"""Read the values of a GGUF header one after another. Knows value types and bounds; knows no key's meaning."""

import struct
from io import BufferedReader
from typing import Any

from engine.checkpoint.folder import file_bytes
from engine.checkpoint.json_object import shown
from engine.errors import CheckpointCorrupt

# A vocabulary of 262,144 with its merges takes 20 MB.
_MAX_HEADER_BYTES = 64 << 20
_MAX_STRING_BYTES = 32 << 20
_MAX_ARRAY_LENGTH = 1 << 22
_MAX_ARRAY_DEPTH = 4
_FIRST_READ_BYTES = 1 << 20
_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d"}
_SMALLEST_BYTES = {kind: struct.calcsize(code) for kind, code in _SCALARS.items()} | {_STRING: 8, _ARRAY: 12}


class GGUFCursor:
    """A position in a GGUF header, little-endian, that never passes the file's end. Raises CheckpointCorrupt."""

    def __init__(self, file: BufferedReader, name: str) -> None:
        self.name = name
        self.num_file_bytes = file_bytes(file)
        self.position = 0
        self._file = file
        self._buffer = bytearray()

    def fail(self, reason: str) -> CheckpointCorrupt:
        """An error about this file, to be raised."""
        return CheckpointCorrupt(self.name, reason)

    def integer(self, code: str) -> int:
        """One unsigned integer; code is "I" for 32 bits, "Q" for 64."""
        return int(self._unpack(code)[0])

    def integers(self, code: str, count: int) -> tuple[int, ...]:
        """`count` unsigned integers."""
        return self._unpack(f"{count}{code}")

    def bytes(self, count: int) -> bytes:
        """`count` bytes as they are."""
        start = self.position
        self._advance(count)
        return bytes(self._buffer[start : self.position])

    def string(self) -> str:
        """A length in eight bytes, then so many bytes of UTF-8."""
        return self._strings(1)[0]

    def require(self, count: int, smallest_bytes: int, what: str) -> None:
        """Refuse a count of things that the rest of the file has no room for, before any of them is read."""
        room = self.num_file_bytes - self.position
        if count * smallest_bytes > room:
            raise self.fail(f"it claims {count} {what}, but only {room} bytes follow")

    def value(self, kind: int, depth: int = 0) -> Any:
        """One metadata value: int, float, bool, str, or a list of one kind of these."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(depth)
        return self._scalars(kind, 1)[0]

    def _array(self, depth: int) -> list[Any]:
        kind, count = self.integer("I"), self.integer("Q")
        if depth >= _MAX_ARRAY_DEPTH or count > _MAX_ARRAY_LENGTH:
            raise self.fail(f"a metadata array is {depth + 1} deep and has {count} values: that is more than allowed")
        self.require(count, _SMALLEST_BYTES.get(kind, 1), "metadata values")
        if kind == _STRING:
            return self._strings(count)
        if kind == _ARRAY:
            return [self._array(depth + 1) for _ in range(count)]
        return self._scalars(kind, count)

    def _scalars(self, kind: int, count: int) -> list[Any]:
        if kind not in _SCALARS:
            raise self.fail(f"a metadata value is of the unknown kind {kind}")
        values = list(self._unpack(f"{count}{_SCALARS[kind]}"))
        if kind != _BOOL:
            return values
        if any(value > 1 for value in values):
            raise self.fail("a truth value in its metadata is neither 0 nor 1")
        return [bool(value) for value in values]

    def _strings(self, count: int) -> list[str]:
        """The inner loop of the whole parser: a vocabulary has hundreds of thousands of these."""
        strings: list[str] = []
        position, buffer, length_of = self.position, self._buffer, struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                start = position + 8
                if start > len(buffer):
                    self._fill(start)
                position = start + length_of(buffer, position)[0]
                if position > len(buffer):
                    self._fill(position)
                strings.append(buffer[start:position].decode())
        except UnicodeDecodeError:
            raise self.fail(f"the text at byte {start} is not UTF-8") from None
        self.position = position
        return strings

    def _unpack(self, code: str) -> tuple[Any, ...]:
        layout = struct.Struct(f"<{code}")
        start = self.position
        self._advance(layout.size)
        return layout.unpack_from(self._buffer, start)

    def _advance(self, count: int) -> None:
        self.position += count
        if self.position > len(self._buffer):
            self._fill(self.position)

    def _fill(self, end: int) -> None:
        """Read on, at least to byte `end`, twice as much each time."""
        if end > self.num_file_bytes:
            raise self.fail(f"it has {self.num_file_bytes} bytes, but its header goes on to byte {end}")
        if end > _MAX_HEADER_BYTES or end - len(self._buffer) > _MAX_STRING_BYTES:
            raise self.fail(f"its header goes on to byte {end}: that is more than allowed")
        self._buffer += self._file.read(max(end - len(self._buffer), len(self._buffer), _FIRST_READ_BYTES))
        if len(self._buffer) < end:
            raise self.fail(f"it ended at byte {len(self._buffer)} while it was read")


def key_of(cursor: GGUFCursor) -> str:
    """A metadata key: at most 65,535 bytes of printable text. Raises CheckpointCorrupt."""
    key = cursor.string()
    if not 0 < len(key) < 1 << 16 or not key.isprintable():
        raise cursor.fail(f"{shown(key)} is not a metadata key")
    return key
