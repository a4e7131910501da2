"""Takes a reply apart while it arrives: reasoning, content, tool calls. Pure text; whole replies fold the same pieces.

However the reply is cut, the pieces put together are the same, and no text is lost but markers and the space around
them: what cannot be read as a call is content.
"""

from collections.abc import Callable

from server.parsing.formats import CallFormat, ThinkingFormat
from server.parsing.markers import first_marker, num_held
from server.parsing.piece import Piece
from server.parsing.section import Section
from server.parsing.tagged_calls import Schemas

_BARE_BEGINNINGS = ("{", "[", "```")


class ReplyParser:
    """A reply of one stretch of reasoning, then content and calls.

    thinking, calls: None looks for none
    schemas: of the functions that may be called, by name
    is_thinking: the prompt has opened the reasoning already
    """

    def __init__(
        self, thinking: ThinkingFormat | None, calls: CallFormat | None, schemas: Schemas, *, is_thinking: bool = False
    ) -> None:
        self._thinking, self._calls, self._schemas = thinking, calls, schemas
        self._opens = calls.opens if calls else ()
        self._silent = thinking.silent if thinking else ()
        self._text = ""
        self._place = 0  # of _text, in the reply
        self._out: list[Piece] = []
        self._is_fresh, self._keeps_space = True, True
        self._section: Section | None = None
        self._opened_with = ""
        begin = self._think if is_thinking else self._begin
        self._advance: Callable[[], bool] = begin if thinking else self._read_content

    @property
    def is_reasoning(self) -> bool:
        """True while the text is reasoning."""
        return self._advance == self._think

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain with this text."""
        self._text += text
        self._read_on()
        return self._taken()

    def finish(self) -> list[Piece]:
        """The pieces that were held back."""
        self._read_on()
        while self._section is not None:
            self._out += self._section.push(self._take(len(self._text)))
            if not self._opened_with and self._section.is_hopeless:
                self._give_up()
            else:
                self._end_section("")
            self._read_on()
        rest = self._take(len(self._text))
        if self._advance == self._think:
            self._reason(rest)
        elif rest.strip() or self._keeps_space:
            self._say(rest, self._place - len(rest))
        return self._taken()

    def _read_on(self) -> None:
        while self._text and self._advance():
            pass

    def _begin(self) -> bool:
        assert self._thinking is not None  # noqa: S101  # this state is left for good without one
        begin, text = self._thinking.begin, self._text.lstrip()
        if begin.startswith(text) and text != begin:
            return False
        if text.startswith(begin):
            self._take(len(self._text) - len(text) + len(begin))
            self._advance = self._think
        else:
            self._advance = self._read_content
        return True

    def _think(self) -> bool:
        assert self._thinking is not None  # noqa: S101  # as above
        if self._is_fresh:
            self._take(len(self._text) - len(self._text.lstrip()))
        found = first_marker(self._text, (self._thinking.end,))
        if found is None:
            held = num_held(self._text, (self._thinking.end,))
            self._reason(self._take(len(self._text[: len(self._text) - held].rstrip())))
            return False
        self._reason(self._take(found[0]).rstrip())
        self._take(len(found[1]))
        self._begin_content()
        return True

    def _read_content(self) -> bool:
        if self._is_fresh and not self._open_content():
            return False
        if self._section is not None:
            return True
        found = first_marker(self._text, (*self._opens, *self._silent))
        if found is None:
            return self._pass_content()
        before = self._take(found[0])
        if before.strip() or not self._is_fresh:
            self._say(before, self._place - len(before))
        if found[1] in self._silent:
            self._take(len(found[1]))
            self._begin_content()
        else:
            self._begin_section(found[1])
        return True

    def _open_content(self) -> bool:
        """Look at the first characters of a stretch of content; False while they are not there."""
        text = self._text.lstrip()
        if not text:
            return False
        if self._calls is not None and self._calls.bare:
            if any(each.startswith(text) and each != text for each in _BARE_BEGINNINGS):
                return False
            if text.startswith(_BARE_BEGINNINGS):
                self._begin_section("")
                return True
        if not self._keeps_space:
            self._take(len(self._text) - len(text))
        return True

    def _pass_content(self) -> bool:
        held = num_held(self._text, (*self._opens, *self._silent))
        length = len(self._text) - held
        if length and (not self._is_fresh or self._text[:length].strip()):
            self._say(self._take(length), self._place - length)
            self._is_fresh = False
        return False

    def _begin_content(self) -> None:
        self._advance, self._is_fresh, self._keeps_space = self._read_content, True, False

    def _begin_section(self, marker: str) -> None:
        assert self._calls is not None  # noqa: S101  # without a format there are no markers
        self._opened_with = marker
        self._take(len(marker))
        known = None if marker else self._schemas.keys()
        self._section = Section(self._calls, self._schemas, known)
        self._advance = self._read_section

    def _read_section(self) -> bool:
        section, calls = self._section, self._calls
        assert section is not None and calls is not None  # noqa: S101, PT018  # this state is entered with both
        ends = calls.closes if calls.closes and self._opened_with else calls.opens
        found = first_marker(self._text, ends)
        length = len(self._text) - num_held(self._text, ends) if found is None else found[0]
        self._out += section.push(self._take(length))
        if not self._opened_with and section.is_hopeless:
            self._give_up()
        elif found is None:
            return False
        elif section.inside_string:
            self._out += section.push(self._take(len(found[1])))
        elif found[1] in calls.opens and not (self._opened_with and calls.closes):
            self._end_section("")
        else:
            self._end_section(self._take(len(found[1])))
        return True

    def _give_up(self) -> None:
        """Text that began like a call is content, in which markers count again."""
        assert self._section is not None  # noqa: S101  # its callers have one
        has_calls, rest = self._section.num_calls > 0, self._unspaced(self._section.rest)
        self._section = None
        self._text, self._place = rest + self._text, self._place - len(rest)
        if has_calls:
            self._begin_content()
        else:
            self._advance, self._is_fresh = self._read_content, False

    def _end_section(self, marker: str) -> None:
        assert self._section is not None  # noqa: S101  # its callers have one
        pieces, rest = self._section.close()
        self._out += pieces
        has_calls = self._section.num_calls > 0 or bool(pieces)
        self._section = None
        if has_calls:
            self._say(rest if rest.strip() else "", self._place - len(marker) - len(rest))
        else:
            whole = self._opened_with + self._unspaced(rest) + marker
            self._say(whole, self._place - len(whole))
        self._begin_content()
        self._is_fresh = has_calls

    def _unspaced(self, text: str) -> str:
        return text if self._opened_with or self._keeps_space else text.lstrip()

    def _reason(self, text: str) -> None:
        if text:
            self._out.append(Piece("reasoning", text))
            self._is_fresh = False

    def _say(self, text: str, start: int) -> None:
        if text:
            self._out.append(Piece("content", text, start))

    def _take(self, length: int) -> str:
        taken, self._text = self._text[:length], self._text[length:]
        self._place += length
        return taken

    def _taken(self) -> list[Piece]:
        out, self._out = self._out, []
        return out
