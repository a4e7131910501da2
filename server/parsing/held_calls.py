"""A stretch of a reply whose calls stand between tags, kept until it is certain where they end. Finds markers.

A closing marker may be part of a value. It ends the calls where all before it reads as calls; where a later one does
too, the readings are compared: the best one leaves no closing marker over, and its values hold as many opening markers
as closing ones.
"""

from typing import TYPE_CHECKING, NamedTuple

from server.parsing.argument_types import Schemas
from server.parsing.markers import first_marker, num_held
from server.parsing.piece import Call

if TYPE_CHECKING:
    from server.parsing.call_format import CallFormat

# By so many characters the first tag of a call has come; and of so many markers every reading is compared.
_DECIDED_CHARACTERS = 320
_MAX_COMPARED = 40


def begins_like_no_call(style: "CallFormat", text: str, length: int) -> bool:
    """Whether so much of the text behind an opening marker tells that no call begins there."""
    is_decided = length > _DECIDED_CHARACTERS and len(text[:length].lstrip()) > _DECIDED_CHARACTERS
    return is_decided and not style.begins.match(text, 0, length)


class Ending(NamedTuple):
    """What the first `length` characters behind the opening marker are.

    calls: none where they are dropped; None where they, and the opening marker, are content
    """

    calls: list[Call] | None
    length: int


class _Mark(NamedTuple):
    start: int
    end: int
    opens: bool


class HeldCalls:
    """Text behind an opening marker.

    text: all of it so far
    """

    def __init__(self, style: "CallFormat", schemas: Schemas, marker: str) -> None:
        self._style, self._schemas, self._marker = style, schemas, marker
        self._closes = style.ends_of(marker)
        # Markers that come after this one in the format's list may stand inside of it.
        self._opens = style.opens[: style.opens.index(marker) + 1] if marker else ()
        self._marks: list[_Mark] = []
        self._found: Ending | None = None
        self._is_clean = (
            True  # no opening marker is left open before the end that was found, nor a closing one behind it
        )
        self._scanned = 0
        self.text = ""

    def push(self, text: str, *, is_last: bool = False) -> Ending | None:
        """The ending, once it is certain."""
        self.text += text
        while mark := self._next_mark(is_last=is_last):
            if self._is_followed(mark):
                return self._found
            ending = None if mark.opens else self._close(mark)
            if ending is not None:
                return ending
            self._marks.append(mark)
        is_hopeless = self._found is None and begins_like_no_call(self._style, self.text, self._scanned)
        return Ending(None, 0) if is_hopeless else None

    @property
    def has_ending(self) -> bool:
        """True where the text so far holds whole calls."""
        return self._found is not None

    def finish(self, *, is_cut: bool = False) -> Ending:
        """The ending when no more text comes. is_cut: the reply was cut off here, and only whole calls count."""
        best = self._best(forgives=not is_cut) if len(self._marks) <= _MAX_COMPARED else self._found
        if best is not None:
            return self._with_stray_ends(best)
        if is_cut and (self._style.begins.match(self.text) or len(self.text.strip()) < _DECIDED_CHARACTERS):
            return Ending([], len(self.text))
        return Ending(None, next((mark.end for mark in self._marks if not mark.opens), len(self.text)))

    def _next_mark(self, *, is_last: bool) -> _Mark | None:
        rest = self.text[self._scanned :]
        markers = (*self._opens, *self._closes)
        found = first_marker(rest, markers, is_last=is_last)
        if found is None:
            self._scanned = len(self.text) - num_held(rest, markers)
            return None
        start = self._scanned + found[0]
        self._scanned = start + len(found[1])
        return _Mark(start, self._scanned, found[1] not in self._closes)

    def _is_followed(self, mark: _Mark) -> bool:
        """Whether the mark before this one begins another call, and nothing was left open before it."""
        last = self._marks[-1] if self._marks else None
        if last is None or not last.opens or self._found is None or not self._is_clean:
            return False
        return self._begins(last, mark.start)

    def _begins(self, mark: _Mark, end: int) -> bool:
        return self._style.begins.match(self.text, mark.end, end) is not None

    def _close(self, mark: _Mark) -> Ending | None:
        if not self._marks and not self._style.begins.match(self.text, 0, mark.start):
            return Ending(None, 0)
        calls = self._read(0, mark)
        if calls:
            self._is_clean = sum(1 if each.opens else -1 for each in self._telling([*self._marks, mark])) < 0
            self._found = Ending(calls, mark.end)
        elif self._found is not None and not self.text[self._found.length : mark.start].strip():
            self._found = Ending(self._found.calls, mark.end)
        else:
            self._is_clean = False
        return None

    def _read(self, start: int, mark: _Mark, *, is_whole: bool = True) -> list[Call] | None:
        is_own = self.text[mark.start : mark.end] == self._style.own_closes.get(self._marker)
        body = self.text[start : mark.end if is_own else mark.start]
        read = (reader(body, self._schemas, is_whole=is_whole) for reader in self._style.readers)
        return next(filter(None, read), None)

    def _telling(self, marks: list[_Mark]) -> list[_Mark]:
        """The marks without opening ones that no call follows: a value only mentions them."""
        ends = [*(mark.start for mark in marks[1:]), len(self.text)]
        return [mark for mark, end in zip(marks, ends, strict=False) if not mark.opens or self._begins(mark, end)]

    def _with_stray_ends(self, ending: Ending) -> Ending:
        """The ending behind all closing markers that follow it at once."""
        for mark in self._marks:
            if mark.start >= ending.length and not mark.opens and not self.text[ending.length : mark.start].strip():
                ending = Ending(ending.calls, mark.end)
        return ending

    def _best(self, *, forgives: bool) -> Ending | None:
        """The ending of the first call in the best reading of the whole text; None where there is no reading.

        forgives: calls may lack what ends them
        """
        end = _Mark(len(self.text), len(self.text), opens=False)
        marks = self._telling([*self._marks, end] if forgives else self._marks)
        known: dict[int, tuple[int, Ending | None]] = {}
        for index in (*reversed([at for at, mark in enumerate(marks) if mark.opens]), -1):
            known[index] = self._best_from(index, marks, known, forgives=forgives)
        return known[-1][1]

    def _best_from(
        self, index: int, marks: list[_Mark], known: dict[int, tuple[int, Ending | None]], *, forgives: bool
    ) -> tuple[int, Ending | None]:
        """The fewest faults of a reading in which a call begins with this mark, and where that call ends.

        Faults are marks in a value that has none to match them, missing ends and, worse, closing marks behind a call.
        """
        start = marks[index].end if index >= 0 else 0
        best: tuple[int, Ending | None] = (len(marks) - index, None)
        num_open = num_stray = 0
        for place in range(index + 1, len(marks)):
            mark = marks[place]
            if mark.opens:
                num_open += 1
                continue
            after = next((at for at in range(place + 1, len(marks)) if marks[at].opens), len(marks))
            behind = sum(each.start < len(self.text) for each in marks[place + 1 : after])
            faults = num_open + num_stray + 2 * behind + (known[after][0] if after < len(marks) else 0)
            for is_whole in (True, False) if forgives else (True,):
                if faults + (not is_whole) < best[0] and (calls := self._read(start, mark, is_whole=is_whole)):
                    best = faults + (not is_whole), Ending(calls, mark.end)
            num_stray, num_open = num_stray + (not num_open), max(num_open - 1, 0)
        return best
