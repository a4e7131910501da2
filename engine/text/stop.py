"""Find stop strings in text that arrives in pieces, however it is cut. Knows nothing of tokens."""

from collections.abc import Sequence

_CHARACTER_BITS = 21  # of a code point


class StopStrings:
    """All stop strings of a request as one automaton (Aho and Corasick 1975), which its choices share.

    It takes one step per character, however many strings there are. Building it takes a step per character of the
    strings, and about 200 bytes.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._next: dict[int, int] = {}  # by state and character
        self._depths = [0]
        self._found: list[str | None] = [None]
        self._fallback = [0]
        arrivals: list[tuple[int, int, int]] = []
        for stop in dict.fromkeys(stops):
            if stop:
                arrivals += self._insert(stop)
        self._link(arrivals)

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to find."""
        return not self._next

    def step(self, state: int, character: str) -> int:
        """The state after one more character. 0 is the state in which nothing has begun."""
        return self._step(state, ord(character))

    def depth(self, state: int) -> int:
        """Length of the longest beginning of a string that the text ends with."""
        return self._depths[state]

    def found(self, state: int) -> str | None:
        """The longest string that the text ends with."""
        return self._found[state]

    def _step(self, state: int, code: int) -> int:
        while (after := self._next.get(state << _CHARACTER_BITS | code)) is None and state:
            state = self._fallback[state]
        return after or 0

    def _insert(self, word: str) -> list[tuple[int, int, int]]:
        """Returns the states that are new: state before, character, state."""
        state, new = 0, []
        for character in word:
            key = state << _CHARACTER_BITS | ord(character)
            after = self._next.get(key)
            if after is None:
                after = self._next[key] = len(self._depths)
                self._depths.append(self._depths[state] + 1)
                self._found.append(None)
                self._fallback.append(0)
                new.append((state, ord(character), after))
            state = after
        self._found[state] = word
        return new

    def _link(self, arrivals: list[tuple[int, int, int]]) -> None:
        """Set, level by level, the state to go on from when the next character does not fit."""
        for before, code, state in sorted(arrivals, key=lambda arrival: self._depths[arrival[2]]):
            self._fallback[state] = self._step(self._fallback[before], code) if before else 0
            self._found[state] = self._found[state] or self._found[self._fallback[state]]


class StopMatcher:
    """Passes text on until the first stop string; holds back only what may still become one.

    The match that ends first wins; of those that end together, the longest, which begins first.

    include: the stop string itself is passed on too
    """

    def __init__(self, strings: StopStrings, *, include: bool = False) -> None:
        self.matched: str | None = None
        self._strings = strings
        self._include = include
        self._held = ""
        self._state = 0

    def push(self, text: str) -> str:
        """The text that is safe to show. After a match, always ""."""
        if self.matched is not None:
            return ""
        if self._strings.is_empty:
            return text
        seen = self._held + text
        for index in range(len(self._held), len(seen)):
            self._state = self._strings.step(self._state, seen[index])
            if (stop := self._strings.found(self._state)) is not None:
                return self._cut(seen, index + 1, stop)
        keep = self._strings.depth(self._state)
        self._held = seen[len(seen) - keep :]
        return seen[: len(seen) - keep]

    def finish(self) -> str:
        """The text that was held back, when no stop string came of it."""
        held, self._held = self._held, ""
        return held

    def _cut(self, seen: str, end: int, stop: str) -> str:
        self.matched = stop
        self._held = ""
        return seen[: end if self._include else end - len(stop)]
