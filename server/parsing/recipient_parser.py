"""Replies that are messages to recipients: thoughts to oneself, calls to functions, answers to the user. Pure text.

A header ` to=f<|message|>` begins each, and the mark of its end ends it; calls stand between tags.
"""

import re
from collections.abc import Callable

from server.parsing.argument_types import Schemas
from server.parsing.formats import MUSE
from server.parsing.markers import first_marker, num_held
from server.parsing.piece import Piece
from server.parsing.reply_parser import ReplyParser

_START, _MESSAGE, _ENDS = "<|start|>", "<|message|>", ("<|eom|>", "<|eot|>")
_MARKS = (_START, *_ENDS)
MARKERS = (_START, _MESSAGE, *_ENDS, *MUSE.opens, *MUSE.closes)
_MAX_HEADER_CHARACTERS = 1024
_TO = re.compile(r"(?:\A|\s)to=([^\s<]{1,256}+)")


class RecipientParser:
    """A message to `self` is reasoning, one to the user content; calls are looked for in all but the first.

    schemas: of the functions that may be called; None when none may
    must_call: the reply is nothing but calls
    """

    def __init__(self, schemas: Schemas | None, *, must_call: bool = False) -> None:
        self._schemas, self._must_call = schemas, must_call
        self._text = ""
        self._place = 0
        self._out: list[Piece] = []
        self._body: ReplyParser | None = None
        self._start = 0
        self._is_last = self._is_cut = False
        self.is_reasoning = False
        self._advance: Callable[[], bool] = self._read_first

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain with this text."""
        self._text += text
        while self._text and self._advance():
            pass
        out, self._out = self._out, []
        return out

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        """The pieces that were held back. is_cut: the reply was cut off; what had begun as a call is dropped."""
        self._is_last, self._is_cut = True, is_cut
        if is_cut and self._must_call and self._body is None and not self.is_reasoning:
            self._take(len(self._text))
        out = self.push("")
        held = num_held(self._text, _MARKS) if is_cut else 0
        self._give(self._take(len(self._text) - (held if held > 1 else 0)))
        self._end_message()
        out += self._out
        self._out = []
        return out

    def _read_first(self) -> bool:
        """The beginning of a reply: the rest of a header that the prompt has begun."""
        begun = self._text.lstrip()
        if not self._is_last and (not begun or "to=".startswith(begun)):
            return False
        self._advance = self._read_header if begun.startswith("to=") else self._read_message
        return True

    def _read_header(self) -> bool:
        found = first_marker(self._text, (_MESSAGE,))
        if found is None and len(self._text) <= _MAX_HEADER_CHARACTERS and not self._is_last:
            return False
        self._advance = self._read_message
        if found is None or found[0] > _MAX_HEADER_CHARACTERS:
            self._take(len(self._text) if self._is_last else 0)
            return True
        recipient = _TO.search(self._take(found[0]))
        self.is_reasoning = recipient is not None and recipient[1] == "self"
        self._take(len(_MESSAGE))
        return True

    def _read_message(self) -> bool:
        found = first_marker(self._text, _MARKS)
        length = len(self._text) - num_held(self._text, _MARKS) if found is None else found[0]
        self._give(self._take(length))
        if found is None:
            return False
        if self._body is not None and self._body.is_amid_calls:
            self._give(self._take(len(found[1])))
            return True
        self._end_message()
        self._take(len(found[1]))
        if found[1] == _START:
            self._advance = self._read_header
        return True

    def _give(self, text: str) -> None:
        if not text:
            return
        if self.is_reasoning:
            self._out.append(Piece("reasoning", text))
            return
        if self._body is None:
            calls = None if self._schemas is None else MUSE
            self._body = ReplyParser(None, calls, self._schemas or {}, must_call=self._must_call)
            self._start = self._place - len(text)
        self._out += map(self._moved, self._body.push(text))

    def _end_message(self) -> None:
        if self._body is not None:
            self._out += map(self._moved, self._body.finish(is_cut=self._is_cut))
        self._body, self.is_reasoning = None, False

    def _moved(self, piece: Piece) -> Piece:
        """A piece of a message as one of the reply."""
        return piece._replace(start=piece.start + self._start) if piece.field == "content" else piece

    def _take(self, length: int) -> str:
        taken, self._text = self._text[:length], self._text[length:]
        self._place += length
        return taken
