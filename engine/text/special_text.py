"""Special tokens spelled in a text: where they stand, and what lies between them. Knows no vocabulary."""

import re
from collections.abc import Iterable, Iterator, Mapping

from engine.text.settings import AddedToken


class SpecialText:
    """Cuts a text at the tokens that are found before the vocabulary sees it; where several match, at the longest."""

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        self._tokens = {token.text: (token_id, token) for token_id, token in tokens.items()}
        self._all = _pattern(tokens.values())
        self._words = _pattern(token for token in tokens.values() if not token.special)

    def cut(self, text: str, *, parse_special: bool) -> Iterator[str | int]:
        """Pieces of text, never empty, and ids between them. Tokens that are not special are found in any case."""
        pattern, start = self._all if parse_special else self._words, 0
        for found in () if pattern is None else pattern.finditer(text):
            token_id, token = self._tokens[found[0]]
            before = text[start : found.start()]
            if before := before.rstrip() if token.lstrip else before:
                yield before
            yield token_id
            start = _past_space(text, found.end()) if token.rstrip else found.end()
        if start < len(text):
            yield text[start:]

    def break_up(self, text: str) -> Iterator[str]:
        """The text in pieces in which no token is whole."""
        start = 0
        for found in () if self._all is None else self._all.finditer(text):
            yield text[start : found.start() + 1]
            start = found.start() + 1
        yield text[start:]


def _past_space(text: str, start: int) -> int:
    return len(text) - len(text[start:].lstrip())


def _pattern(tokens: Iterable[AddedToken]) -> re.Pattern[str] | None:
    longest_first = sorted(tokens, key=lambda token: len(token.text), reverse=True)
    spelled = [r"\A" * token.leading + re.escape(token.text) for token in longest_first]
    return re.compile("|".join(spelled)) if spelled else None
