"""Arguments that are JSON, passed on while they arrive. Words of Python and numbers that JSON lacks become JSON."""

import re

from server.parsing.json_cursor import JsonCursor

_WORDS = {
    "NaN": "null", "-NaN": "null", "Infinity": "null", "-Infinity": "null", "+Infinity": "null",
    "None": "null", "True": "true", "False": "false",
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z+-]+")
_LAST_WORD = re.compile(r"[A-Za-z+-]+\Z")


class ArgumentText:
    """The text of one object. is_over: it has been read to its end."""

    def __init__(self) -> None:
        self._cursor = JsonCursor()
        self._word = ""
        self.is_over = False

    @property
    def in_string(self) -> bool:
        """True where a marker would be part of a value."""
        return self._cursor.in_string

    def feed(self, text: str) -> tuple[str, int]:
        """The text that is certain, and how many characters were read: all, or those up to the object's end."""
        read, out = 0, []
        while read < len(text) and not self.is_over:
            was_in_string = self._cursor.in_string
            end = self._cursor.feed(text, read, until_depth=0, until_string=True)
            out.append(self._passed(text[read:end], was_in_string=was_in_string))
            read = end
            self.is_over = self._cursor.depth == 0
        return "".join(out), read

    def finish(self) -> str:
        """The text that was held back."""
        word, self._word = self._word, ""
        return _WORDS.get(word, word)

    def _passed(self, text: str, *, was_in_string: bool) -> str:
        if was_in_string:
            return text
        text = self._word + text
        last = _LAST_WORD.search(text)
        self._word = last[0] if last else ""
        text = text[: len(text) - len(self._word)]
        return _WORD.sub(lambda found: _WORDS.get(found[0], found[0]), text)
