"""Find where control tokens are spelled out in a text. Knows strings; knows no tokenizer and no template."""

import re
from collections.abc import Iterable


class Spellings:
    """The spellings of some tokens, thousands if need be. A text is looked through once, whatever their number."""

    def __init__(self, spellings: Iterable[str]) -> None:
        self._spellings = frozenset(each for each in spellings if len(each) > 1)
        self._lengths = sorted({len(each) for each in self._spellings})
        firsts = "".join(re.escape(each) for each in sorted({each[0] for each in self._spellings}))
        self._first = re.compile(f"[{firsts}]") if firsts else None

    def broken(self, text: str, mark: str) -> str:
        """The text with a mark after the first character of every spelling in it."""
        if self._first is None:
            return text
        pieces: list[str] = []
        start = 0
        for match in self._first.finditer(text):
            at = match.start()
            if any(text[at : at + length] in self._spellings for length in self._lengths):
                pieces.append(text[start : at + 1])
                start = at + 1
        return mark.join([*pieces, text[start:]])
