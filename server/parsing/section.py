"""A stretch of a reply that holds tool calls, read while it arrives. Knows its format's patterns; finds no markers."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from server.parsing.argument_text import ArgumentText
from server.parsing.argument_types import Schemas
from server.parsing.json_calls import FIRST_KEYS
from server.parsing.json_cursor import JsonCursor
from server.parsing.piece import Piece, pieces_of

if TYPE_CHECKING:
    from server.parsing.call_format import CallFormat

MAX_HEAD_CHARACTERS = 4096
_FIRST = re.compile(r'[\s\]},;]*+(?:`{1,2}\Z|```[a-z_]*+\s*+)?[\s\[]*+(?:\{\s*+(?:"(?P<key>[a-z_]*+)(?P<end>"?))?)?')
_BARE_NAME = re.compile(r'"(?:name|tool_name)"\s*+:\s*+"([^"\\]{1,256}+)')
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
        self._arguments: ArgumentText | None = None
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

    def close(self, *, is_cut: bool = False) -> tuple[list[Piece], str]:
        """The rest: calls that could only be read as a whole, and text that is none.

        is_cut: the reply was cut off here; what had begun as a call is dropped
        """
        rest, held = self.rest, self._held()
        if (self.num_calls and self._style.tail.fullmatch(rest)) or (is_cut and self._has_begun):
            return held, ""
        for read in self._style.readers:
            calls = read(rest, self._schemas)
            if calls and all(self._is_known(call.name) for call in calls):
                return held + pieces_of(calls), ""
        return held, rest

    @property
    def _has_begun(self) -> bool:
        """True where a call is certain or, without a marker, its known name has begun."""
        if self.num_calls or self._known is None:
            return True
        found = _BARE_NAME.search(self._head)
        return found is not None and any(name.startswith(found[1]) for name in self._known)

    def _held(self) -> list[Piece]:
        text = self._arguments.finish() if self._arguments else ""
        return [Piece("arguments", text)] if text else []

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
        self._arguments = ArgumentText()
        self.num_calls += 1
        pieces.append(Piece("call", found["name"].strip()))
        return text

    def _pass_arguments(self, text: str, pieces: list[Piece]) -> str:
        assert self._arguments is not None  # noqa: S101  # its caller looks
        certain, num_read = self._arguments.feed(text)
        if self._arguments.is_over:
            self._arguments = None
        if certain:
            pieces.append(Piece("arguments", certain))
        return text[num_read:]

    def _is_known(self, name: str) -> bool:
        return self._known is None or name.strip() in self._known
