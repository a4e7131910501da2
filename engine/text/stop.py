"""Find stop strings in text that arrives in pieces, however it is cut. Knows nothing of tokens."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text on until the first stop string; holds back only what may still become one.

    The match that ends first wins; of those that end together, the longest, which begins first.

    include: the stop string itself is passed on too
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self.matched: str | None = None
        self._include = include
        self._held = ""
        self._automaton = _Automaton([stop for stop in dict.fromkeys(stops) if stop])

    def push(self, text: str) -> str:
        """The text that is safe to show. After a match, always ""."""
        if self.matched is not None:
            return ""
        if self._automaton.is_empty:
            return text
        seen = self._held + text
        for place in range(len(self._held), len(seen)):
            stop = self._automaton.advance(seen[place])
            if stop is not None:
                return self._cut(seen, place + 1, stop)
        keep = self._automaton.depth
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


class _Automaton:
    """All strings at once (Aho and Corasick 1975): one step per character.

    depth: characters at the end of the text so far that begin some string
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._depths = [0]
        self._found: list[str | None] = [None]
        self._fallback = [0]
        self._state = 0
        for word in words:
            self._insert(word)
        self._link()

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to find."""
        return len(self._next) == 1

    @property
    def depth(self) -> int:
        """Length of the longest beginning of a word that the text ends with."""
        return self._depths[self._state]

    def advance(self, character: str) -> str | None:
        """The longest word that ends with this character, if any does."""
        self._state = self._step(self._state, character)
        return self._found[self._state]

    def _step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._fallback[state]
        return self._next[state].get(character, 0)

    def _insert(self, word: str) -> None:
        state = 0
        for character in word:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depths.append(self._depths[state] + 1)
                self._found.append(None)
                self._fallback.append(0)
            state = self._next[state][character]
        self._found[state] = word

    def _link(self) -> None:
        """Set, level by level, the state to go on from when the next character does not fit."""
        level = list(self._next[0].values())
        while level:
            deeper: list[int] = []
            for state in level:
                for character, child in self._next[state].items():
                    self._fallback[child] = self._step(self._fallback[state], character)
                    self._found[child] = self._found[child] or self._found[self._fallback[child]]
                    deeper.append(child)
            level = deeper
