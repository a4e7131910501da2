"""A stretch of a reply that holds tool calls, read while it arrives. Knows its format's patterns; finds no markers."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from server.parsing.json_calls import FIRST_KEYS
from server.parsing.json_cursor import JsonCursor
from server.parsing.piece import Piece, pieces_of
from server.parsing.tagged_calls import Schemas

if TYPE_CHECKING:
    from server.parsing.formats import CallFormat

MAX_HEAD_CHARACTERS = 4096
_FIRST = re.compile(r'[\s\]},;]*+(?:`{1,2}\Z|```[a-z_]*+\s*+)?[\s\[]*+(?:\{\s*+(?:"(?P<key>[a-z_]*+)(?P<end>"?))?)?')
_NEXT = re.compile(r'[\s\]},;]*+(?:["`{\[]|\Z)')


class Section:
    """Arguments that are JSON are passed on as they come, all else is kept until the end.

    known: only these names are calls; None takes any
    num_calls: whose arguments were passed on as they came
    """

    def __init__(self, style: "CallFormat", schemas: Schemas, known: Collection[str] | None = None) -> None:
        self._style, self._schemas, self._known = style, schemas, known
        self._head = ""  # what may still become the head of a call
        self._kept: list[str] = []  # what follows when no head can come any more
        self._whole = JsonCursor()
        self._is_json: bool | None = None
        self._arguments: JsonCursor | None = None
        self.num_calls = 0
        self._is_lost = not style.heads

    @property
    def inside_string(self) -> bool:
        """True where a marker would be part of a value."""
        return self._arguments.in_string if self._arguments else bool(self._is_json) and self._whole.in_string

    @property
    def is_hopeless(self) -> bool:
        """True when no further call can come of JSON; once true, it stays so."""
        if self._arguments:
            return False
        if self._is_lost:
            return True
        if self.num_calls:
            return _NEXT.match(self._head) is None
        found = _FIRST.match(self._head)
        assert found is not None  # noqa: S101  # every part of the pattern is optional
        if found.end() < len(self._head) and not found["end"]:
            return True
        key = found["key"] or ""
        return key not in FIRST_KEYS if found["end"] else not any(each.startswith(key) for each in FIRST_KEYS)

    def push(self, text: str) -> list[Piece]:
        """The pieces of calls that are certain so far."""
        if self._is_json is None and text.strip():
            self._is_json = text.lstrip()[0] in "{["
        self._whole.feed(text)
        pieces: list[Piece] = []
        while text:
            text = self._pass_arguments(text, pieces) if self._arguments else self._look_for_head(text, pieces)
        return pieces

    @property
    def rest(self) -> str:
        """The text that has not been given out."""
        return self._head + "".join(self._kept)

    def close(self) -> tuple[list[Piece], str]:
        """The rest: calls that could only be read as a whole, and text that is none."""
        rest = self.rest
        if self.num_calls and self._style.tail.fullmatch(rest):
            return [], ""
        for read in self._style.readers:
            calls = read(rest, self._schemas)
            if calls and all(self._is_known(call.name) for call in calls):
                return pieces_of(calls), ""
        return [], rest

    def _look_for_head(self, text: str, pieces: list[Piece]) -> str:
        if self._is_lost:
            self._kept.append(text)
            return ""
        self._head += text
        found = next(filter(None, (head.match(self._head) for head in self._style.heads)), None)
        if found is None:
            self._is_lost = len(self._head) > MAX_HEAD_CHARACTERS
            return ""
        if found.end() > MAX_HEAD_CHARACTERS or not self._is_known(found["name"]):
            self._is_lost = True
            return ""
        text, self._head = self._head[found.end() :], ""
        self._arguments = JsonCursor()
        self.num_calls += 1
        pieces.append(Piece("call", found["name"].strip()))
        return text

    def _pass_arguments(self, text: str, pieces: list[Piece]) -> str:
        assert self._arguments is not None  # noqa: S101  # its caller looks
        num_read = self._arguments.feed(text, until_depth=0)
        if self._arguments.depth == 0:
            self._arguments = None
        pieces.append(Piece("arguments", text[:num_read]))
        return text[num_read:]

    def _is_known(self, name: str) -> bool:
        return self._known is None or name.strip() in self._known
