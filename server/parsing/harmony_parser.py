"""Replies of gpt-oss: messages on channels (OpenAI's harmony format). Pure text; the counterpart of ReplyParser."""

import re
from collections.abc import Callable

from server.parsing.markers import first_marker, num_held
from server.parsing.piece import Field, Piece

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
MARKERS = (START, CHANNEL, MESSAGE, CONSTRAIN, *_ENDS)
_HEADERS = (START, CHANNEL)
_MAX_HEADER_CHARACTERS = 1024
_TO = r"(?:to=([^\s<]{1,256}+)\s*+)?+"
_HEADER = re.compile(
    rf"(?:<\|start\|>\s*+(?:assistant)?+\s*+)?+{_TO}(?:<\|channel\|>\s*+(analysis|commentary|final)\s*+)?+{_TO}"
    r"(?:(?:<\|constrain\|>)?+\s*+json\s*+)?+<\|message\|>"
)


class HarmonyParser:
    """Analysis is reasoning, a message to a function is a call, all else is content.

    takes_calls: functions may be called; messages to others, or to any without them, are reasoning
    """

    def __init__(self, *, takes_calls: bool) -> None:
        self._takes_calls = takes_calls
        self._text = ""
        self._place = 0
        self._out: list[Piece] = []
        self._field: Field = "content"
        self._advance: Callable[[], bool] = self._read_text

    @property
    def is_reasoning(self) -> bool:
        """True while the text is reasoning."""
        return self._field == "reasoning"

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain with this text."""
        self._text += text
        while self._text and self._advance():
            pass
        out, self._out = self._out, []
        return out

    def finish(self) -> list[Piece]:
        """The pieces that were held back."""
        out = self.push("")
        self._give(len(self._text))
        out += self._out
        self._out = []
        return out

    def _read_text(self) -> bool:
        found = first_marker(self._text, (*_HEADERS, *_ENDS))
        if found is None:
            self._give(len(self._text) - num_held(self._text, (*_HEADERS, *_ENDS)))
            return False
        self._give(found[0])
        if found[1] in _HEADERS:
            self._advance = self._read_header
        else:
            self._take(len(found[1]))
            self._field = "content"
        return True

    def _read_header(self) -> bool:
        found = first_marker(self._text, (MESSAGE,))
        if found is None and len(self._text) <= _MAX_HEADER_CHARACTERS:
            return False
        fits = found is not None and found[0] <= _MAX_HEADER_CHARACTERS - len(MESSAGE)
        header = _HEADER.match(self._text) if fits else None
        if header is None:
            self._field = "content"
            self._give(len(START if self._text.startswith(START) else CHANNEL))
        else:
            self._take(header.end())
            self._open(header[2], header[1] or header[3])
        self._advance = self._read_text
        return True

    def _open(self, channel: str | None, recipient: str | None) -> None:
        if recipient is None:
            self._field = "reasoning" if channel == "analysis" else "content"
        elif self._takes_calls and recipient.startswith("functions."):
            self._field = "arguments"
            self._out.append(Piece("call", recipient.removeprefix("functions.")))
        else:
            self._field = "reasoning"

    def _give(self, length: int) -> None:
        start = self._place
        if text := self._take(length):
            self._out.append(Piece(self._field, text, start if self._field == "content" else 0))

    def _take(self, length: int) -> str:
        taken, self._text = self._text[:length], self._text[length:]
        self._place += length
        return taken
