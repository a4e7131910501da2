"""Replies of gpt-oss: messages on channels (OpenAI's harmony format). Pure text; the counterpart of ReplyParser."""

import re
from collections.abc import Callable, Collection

from server.parsing.argument_text import ArgumentText
from server.parsing.markers import first_marker, num_held
from server.parsing.piece import Field, Piece

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
MARKERS = (START, CHANNEL, MESSAGE, CONSTRAIN, *_ENDS)
_HEADERS = (START, CHANNEL, CONSTRAIN)
_BODY_MARKERS = (START, CHANNEL, CONSTRAIN, MESSAGE, *_ENDS)
_MAX_HEADER_CHARACTERS = 1024
_TO = re.compile(r"(?:^|[\s>])to=([^\s<]{1,256}+)")
_ON = re.compile(r"<\|channel\|>\s*+([a-z]{1,32}+)")
_AUTHOR = re.compile(r"<\|start\|>\s*+([^\s<]{1,256}+)")
# A reply may begin amid a header, whose first words are part of the prompt.
_BEGUN = re.compile(r"\s*+to=\S*+")
_BEGINNING = " to="
# Tools that OpenAI's own models know without being told.
_BUILT_IN = re.compile(r"(?:browser|python|container)(?:\.|\Z)")


class HarmonyParser:
    """Analysis is reasoning, a message to a function is a call, all else is content.

    takes_calls: functions may be called; messages to others, or to any without them, are reasoning
    names: of the functions that may be called, where they are known
    must_call: the reply is nothing but reasoning and calls
    """

    def __init__(self, *, takes_calls: bool, names: Collection[str] = (), must_call: bool = False) -> None:
        self._takes_calls, self._names, self._must_call = takes_calls, names, must_call
        self._text = ""
        self._place = 0
        self._out: list[Piece] = []
        self._field: Field = "content"
        self._arguments: ArgumentText | None = None
        self._has_arguments = False
        self._is_last = self._is_cut = False
        self._advance: Callable[[], bool] = self._read_first

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

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        """The pieces that were held back. is_cut: the reply was cut off; a header that had begun is dropped."""
        self._is_last, self._is_cut = True, is_cut
        if is_cut and self._must_call and self._field == "content":
            self._take(len(self._text))
        out = self.push("")
        if self._advance == self._read_header or (is_cut and num_held(self._text, MARKERS) > 1):
            self._take(len(self._text) if self._advance == self._read_header else 0)
            self._give(len(self._text) - num_held(self._text, MARKERS))
            self._take(len(self._text))
        self._give(len(self._text))
        self._end_message()
        out += self._out
        self._out = []
        return out

    def _read_first(self) -> bool:
        """The beginning of a reply: perhaps the rest of a header that the prompt has begun."""
        begun = self._text.lstrip()
        if not self._is_last and (not begun or _BEGINNING.lstrip().startswith(begun)):
            return False
        self._advance = self._read_header if _BEGUN.match(self._text) else self._read_text
        return True

    def _read_text(self) -> bool:
        found = first_marker(self._text, _BODY_MARKERS)
        if found is None:
            self._give(len(self._text) - num_held(self._text, _BODY_MARKERS))
            return False
        self._give(found[0])
        if self._arguments is not None and self._arguments.in_string:
            self._give(len(found[1]))
            return True
        if found[1] in _HEADERS:
            self._end_message()
            self._advance = self._read_header
            return True
        self._take(len(found[1]))
        if found[1] in _ENDS:
            self._end_message()
        return True

    def _read_header(self) -> bool:
        """A header up to the mark of its message; without one, its control tokens are dropped."""
        found = first_marker(self._text, (MESSAGE, *_ENDS))
        length = _MAX_HEADER_CHARACTERS + 1 if found is None else found[0]
        if found is None and len(self._text) <= _MAX_HEADER_CHARACTERS and not self._is_last:
            return False
        self._advance = self._read_text
        if found is not None and found[1] == MESSAGE and length <= _MAX_HEADER_CHARACTERS:
            self._open(self._take(length))
            self._take(len(MESSAGE))
        elif found is not None and length <= _MAX_HEADER_CHARACTERS:
            self._open(self._take(length))
            self._end_message()
            self._take(len(found[1]))
        else:
            self._field = "content"
            self._take(next((len(each) for each in _HEADERS if self._text.startswith(each)), 0))
        return True

    def _open(self, header: str) -> None:
        to, on, author = (pattern.search(header) for pattern in (_TO, _ON, _AUTHOR))
        by_other = author is not None and author[1] != "assistant" and not author[1].startswith("to=")
        if by_other:  # results of functions, which a model may dream up
            self._field = "reasoning"
        elif to is None or to[1] in ("user", "all", "assistant"):
            self._field = "reasoning" if on is not None and on[1] == "analysis" else "content"
        elif self._is_call(to[1]):
            self._field = "arguments"
            self._arguments, self._has_arguments = ArgumentText(), False
            self._out.append(Piece("call", to[1].removeprefix("functions.")))
        else:
            self._field = "reasoning"

    def _is_call(self, recipient: str) -> bool:
        if not self._takes_calls:
            return False
        is_function = recipient.startswith("functions.") or recipient in self._names
        return is_function or _BUILT_IN.match(recipient) is None

    def _end_message(self) -> None:
        """A call is over: one without arguments has an empty object of them."""
        if self._arguments is not None:
            held = self._arguments.finish()
            if held:
                self._out.append(Piece("arguments", held))
            elif not self._has_arguments and not self._is_cut:
                self._out.append(Piece("arguments", "{}"))
        self._field, self._arguments = "content", None

    def _give(self, length: int) -> None:
        start = self._place
        text = self._take(length)
        if self._arguments is not None:
            self._has_arguments = self._has_arguments or bool(text.strip())
            text = self._arguments_of(text) if self._has_arguments else ""
        if text:
            self._out.append(Piece(self._field, text, start if self._field == "content" else 0))

    def _arguments_of(self, text: str) -> str:
        """The text of arguments; what is not JSON passes as it is."""
        assert self._arguments is not None  # noqa: S101  # its caller looks
        certain, num_read = self._arguments.feed(text)
        return certain + text[num_read:]

    def _take(self, length: int) -> str:
        taken, self._text = self._text[:length], self._text[length:]
        self._place += length
        return taken
