"""Takes a reply apart while it arrives: reasoning, content, tool calls. Pure text; whole replies fold the same pieces.

However the reply is cut, the pieces put together are the same, and no text is lost but markers and the space around
them: what cannot be read as a call is content.
"""

import json
import re
from collections.abc import Callable

from server.parsing.argument_types import Schemas
from server.parsing.call_format import CallFormat
from server.parsing.formats import PYTHON_LIST, ThinkingFormat
from server.parsing.held_calls import Ending, HeldCalls, begins_like_no_call
from server.parsing.markers import first_marker, num_held
from server.parsing.piece import Piece, joined, pieces_of
from server.parsing.section import Section

_BARE_BEGINNINGS = ("{", "[", "```")
_MIN_MARKER_CHARACTERS = 2  # of a marker that a cut reply ends with; fewer may be anything
_MAX_TRIES = 16
_LIST = re.compile(r"\[\s*+([\w.]*+)")
_LIST_CALL = re.compile(r"\[\s*+([\w.]++)\(")


class ReplyParser:
    """A reply of one stretch of reasoning, then content and calls.

    thinking, calls: None looks for none
    schemas: of the functions that may be called, by name
    is_thinking: the prompt has opened the reasoning already
    must_call: the reply is nothing but calls
    lead: the end of the prompt, where the reply goes on with what it begins
    """

    def __init__(
        self,
        thinking: ThinkingFormat | None,
        calls: CallFormat | None,
        schemas: Schemas,
        *,
        is_thinking: bool = False,
        must_call: bool = False,
        lead: str = "",
    ) -> None:
        self._thinking, self._calls, self._schemas = thinking, calls, schemas
        self._opens = calls.opens if calls else ()
        self._silent = (*(thinking.silent if thinking else ()), *(calls.silent if calls else ()))
        self._must_call = must_call
        self._text = lead
        self._place = -len(lead)  # of _text, in the reply
        self._out: list[Piece] = []
        self._is_fresh, self._keeps_space = True, True
        self._section: Section | None = None
        self._held: HeldCalls | None = None
        self._opened_with = ""
        self._has_called = self._is_last = self._is_cut = False
        begin = self._think if is_thinking else self._begin
        self._advance: Callable[[], bool] = begin if thinking else self._read_content

    @property
    def is_reasoning(self) -> bool:
        """True while the text is reasoning."""
        return self._advance in (self._think, self._doubt)

    @property
    def is_amid_calls(self) -> bool:
        """True where a marker would be part of a call that has not come to its end."""
        return self._held is not None and not self._held.has_ending

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain with this text."""
        self._text += text
        self._read_on()
        return self._taken()

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        """The pieces that were held back. is_cut: the reply was cut off; what had begun as a call is dropped."""
        self._is_last, self._is_cut = True, is_cut
        self._read_on()
        while self._section is not None or self._held is not None or self._advance == self._doubt:
            self._end_open()
            self._read_on()
        rest = self._take(len(self._text))
        if self._advance == self._think:
            self._reason(rest[: len(rest) - self._num_cut(rest)])
        elif (rest.strip() or self._keeps_space) and not self._is_markup(rest):
            rest = rest[: len(rest) - self._num_cut(rest)]
            self._say(rest, self._place - len(rest))
        return self._taken()

    def _end_open(self) -> None:
        """Close what is still open when no more text comes."""
        if self._advance == self._doubt:
            self._end_doubt()
        elif self._held is not None:
            self._end_held(self._held.finish(is_cut=self._is_cut))
        elif self._section is not None:
            self._out += self._section.push(self._take(len(self._text)))
            if not self._opened_with and self._section.is_hopeless:
                self._give_up()
            else:
                self._end_section("")

    def _num_cut(self, text: str) -> int:
        """Characters at the end of a reply that was cut off which were to become a marker."""
        ends = (self._thinking.begin, self._thinking.end) if self._thinking else ()
        held = num_held(text, (*self._opens, *self._silent, *ends)) if self._is_cut else 0
        return held if held >= _MIN_MARKER_CHARACTERS else 0

    def _is_markup(self, text: str) -> bool:
        """Whether the end of a reply that was cut off is what was to become calls, or the end of some."""
        if not self._is_cut or self._calls is None:
            return False
        begun = text.strip()
        return self._must_call or (self._has_called and any(each.startswith(begun) for each in self._calls.closes))

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
        markers = (self._thinking.end, *self._opens)
        found = first_marker(self._text, markers, is_last=self._is_last)
        if found is None:
            held = num_held(self._text, markers)
            self._reason(self._take(len(self._text[: len(self._text) - held].rstrip())))
            return False
        if found[1] != self._thinking.end:
            self._reason(self._take(len(self._text[: found[0]].rstrip())))
            self._advance = self._doubt
            return True
        self._end_thought(found[0])
        return True

    def _end_thought(self, length: int) -> None:
        assert self._thinking is not None  # noqa: S101  # as above
        self._reason(self._take(length).rstrip())
        self._take(len(self._thinking.end))
        self._begin_content()

    def _doubt(self) -> bool:
        """A thought that names the marker of calls: a call if the thought never ends, else a quotation."""
        assert self._thinking is not None  # noqa: S101  # as above
        place = self._text.find(self._thinking.end)
        if place >= 0:
            self._end_thought(place)
            return True
        opening = first_marker(self._text, self._opens)
        if opening is not None and self._calls is not None:
            length = opening[0] + len(opening[1])
            behind = self._text[length:]
            if not self._calls.heads and begins_like_no_call(self._calls, behind, len(behind)):
                self._reason(self._take(length))
                self._advance = self._think
                return True
        return False

    def _end_doubt(self) -> None:
        """The calls at the very end of a thought that never ended, if there are any; all else is reasoning."""
        self._advance = self._think
        place = 0
        for _ in range(_MAX_TRIES):
            found = first_marker(self._text[place:], self._opens)
            if found is None:
                break
            place += found[0]
            pieces = self._calls_in(self._text[place:])
            if pieces:
                self._reason(self._take(place).rstrip())
                self._take(len(self._text))
                self._out += pieces
                self._has_called = True
                self._begin_content()
                return
            place += len(found[1])
        self._reason(self._take(len(self._text) - self._num_cut(self._text)))
        self._take(len(self._text))

    def _calls_in(self, text: str) -> list[Piece]:
        """Whole calls of a text that holds nothing else; none where it does."""
        parser = ReplyParser(None, self._calls, self._schemas)
        pieces = [*parser.push(text), *parser.finish(is_cut=self._is_cut)]
        whole = all(_is_json(each.text) for each in joined(pieces) if each.field == "arguments")
        return pieces if whole and all(each.field in ("call", "arguments") for each in pieces) else []

    def _read_content(self) -> bool:
        if self._is_fresh and not self._open_content():
            return False
        if self._section is not None or self._held is not None:
            return True
        found = first_marker(self._text, (*self._opens, *self._silent), is_last=self._is_last)
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
            if any(each.startswith(text) and each != text for each in _BARE_BEGINNINGS) or self._may_be_list(text):
                return False
            if self._is_list(text):
                self._begin_list()
                return True
            if text.startswith(_BARE_BEGINNINGS):
                self._begin_section("")
                return True
        if not self._keeps_space:
            self._take(len(self._text) - len(text))
        return True

    def _may_be_list(self, text: str) -> bool:
        """Whether the text may yet become a list of calls of known functions, written as Python does."""
        found = _LIST.fullmatch(text)
        return not self._is_last and found is not None and any(each.startswith(found[1]) for each in self._schemas)

    def _is_list(self, text: str) -> bool:
        found = _LIST_CALL.match(text)
        return found is not None and found[1] in self._schemas

    def _begin_list(self) -> None:
        assert self._calls is not None  # noqa: S101  # its caller looks
        self._opened_with = ""
        self._held = HeldCalls(PYTHON_LIST, self._schemas, "")
        self._advance = self._hold

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
        if marker and not self._calls.heads:
            self._held = HeldCalls(self._calls, self._schemas, marker)
            self._advance = self._hold
        else:
            known = None if marker and not self._calls.lead else self._schemas.keys()
            self._section = Section(self._calls, self._schemas, known)
            self._advance = self._read_section

    def _hold(self) -> bool:
        assert self._held is not None  # noqa: S101  # this state is entered with it
        ending = self._held.push(self._take(len(self._text)), is_last=self._is_last)
        if ending is not None:
            self._end_held(ending)
        return ending is not None

    def _end_held(self, ending: Ending) -> None:
        assert self._held is not None  # noqa: S101  # its callers have it
        text, self._held = self._held.text, None
        rest = text[ending.length :]
        self._text, self._place = rest + self._text, self._place - len(rest)
        if ending.calls is None:
            whole = self._opened_with + text[: ending.length]
            self._say(whole, self._place - len(whole))
        else:
            self._out += pieces_of(ending.calls)
            self._has_called = self._has_called or bool(ending.calls)
        self._begin_content()
        self._is_fresh = ending.calls is not None

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
        pieces, rest = self._section.close(is_cut=self._is_cut and not marker)
        self._out += pieces
        has_calls = self._section.num_calls > 0 or bool(pieces)
        self._section = None
        is_dropped = self._is_cut and not marker and (not rest or self._must_call)
        if has_calls:
            self._has_called = True
            self._say(rest if rest.strip() and not is_dropped else "", self._place - len(marker) - len(rest))
        elif not is_dropped:
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
        if start < 0:  # the lead is no part of the reply
            text, start = text[-start:], 0
        if text:
            self._out.append(Piece("content", text, start))

    def _take(self, length: int) -> str:
        taken, self._text = self._text[:length], self._text[length:]
        self._place += length
        return taken

    def _taken(self) -> list[Piece]:
        out, self._out = self._out, []
        return out


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
