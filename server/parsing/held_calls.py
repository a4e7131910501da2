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
        self._is_clean = True  # nothing but the calls stands before and behind the closing marker that was found
        self._scanned = 0
        self.text = ""

    def push(self, text: str, *, is_last: bool = False) -> Ending | None:
        """The ending, once it is certain."""
        self.text += text
        while mark := self._next_mark(is_last=is_last):
            ending = self._open(mark) if mark.opens else self._close(mark)
            if ending is not None:
                return ending
            self._marks.append(mark)
        return Ending(None, 0) if self.is_hopeless and not self._marks else None

    @property
    def is_hopeless(self) -> bool:
        """True when the text begins like no call."""
        is_decided = len(self.text) > _DECIDED_CHARACTERS and len(self.text.lstrip()) > _DECIDED_CHARACTERS
        return is_decided and not self._style.begins.match(self.text)

    def finish(self, *, is_cut: bool = False) -> Ending:
        """The ending when no more text comes. is_cut: the reply was cut off here."""
        if self._found is not None:
            return self._best() if len(self._marks) <= _MAX_COMPARED else self._found
        if is_cut and (self._style.begins.match(self.text) or len(self.text.strip()) < _DECIDED_CHARACTERS):
            return Ending([], len(self.text))
        closes = [mark for mark in self._marks if not mark.opens]
        for mark in (*closes, _Mark(len(self.text), len(self.text), opens=False)):
            calls = self._read(0, mark.start, is_whole=False)
            if calls:
                return self._with_stray_ends(Ending(calls, mark.end))
        return Ending(None, closes[0].end if closes else len(self.text))

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

    def _open(self, mark: _Mark) -> Ending | None:
        """Another call begins: that is the end of the one before it, if nothing is left open."""
        return self._found if self._found is not None and self._is_clean else None

    def _close(self, mark: _Mark) -> Ending | None:
        if not self._marks and not self._style.begins.match(self.text, 0, mark.start):
            return Ending(None, mark.end)
        calls = self._read(0, mark.start)
        if calls:
            self._is_clean = not self._marks
            self._found = Ending(calls, mark.end)
        elif self._found is not None and not self.text[self._found.length : mark.start].strip():
            self._found = Ending(self._found.calls, mark.end)
        else:
            self._is_clean = False
        return None

    def _read(self, start: int, end: int, *, is_whole: bool = True) -> list[Call] | None:
        body = self.text[start:end]
        read = (reader(body, self._schemas, is_whole=is_whole) for reader in self._style.readers)
        return next(filter(None, read), None)

    def _with_stray_ends(self, ending: Ending) -> Ending:
        """The ending behind all closing markers that follow it at once."""
        for mark in self._marks:
            if mark.start >= ending.length and not mark.opens and not self.text[ending.length : mark.start].strip():
                ending = Ending(ending.calls, mark.end)
        return ending

    def _best(self) -> Ending:
        """The ending of the first call in the best reading of the whole text."""
        known: dict[int, tuple[int, Ending | None]] = {}
        starts = [-1, *(index for index, mark in enumerate(self._marks) if mark.opens)]
        for index in reversed(starts):
            known[index] = self._best_from(index, known)
        ending = known[-1][1]
        assert ending is not None  # noqa: S101  # one was found
        return self._with_stray_ends(ending)

    def _best_from(self, index: int, known: dict[int, tuple[int, Ending | None]]) -> tuple[int, Ending | None]:
        """The fewest marks that are left over when a call begins with this one, and where that call ends."""
        start = self._marks[index].end if index >= 0 else 0
        best: tuple[int, Ending | None] = (len(self._marks) - index, None)
        balance = 0
        for place in range(index + 1, len(self._marks)):
            mark = self._marks[place]
            calls = None if mark.opens else self._read(start, mark.start)
            if calls:
                after = next((at for at in range(place + 1, len(self._marks)) if self._marks[at].opens), None)
                stray = (len(self._marks) if after is None else after) - place - 1
                cost = abs(balance) + stray + (known[after][0] if after is not None else 0)
                if cost < best[0]:
                    best = cost, Ending(calls, mark.end)
            balance += 1 if mark.opens else -1
        return best
