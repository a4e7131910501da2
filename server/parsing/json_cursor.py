"""Where JSON text stands while it arrives: how deep, and whether inside a string. Judges no grammar."""

import re

_NEXT = re.compile(r'[\\"]')
_STRUCTURE = re.compile(r'["{}\[\]]')


class JsonCursor:
    """depth: braces and brackets that are open; in_string: a string is."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._escaped = False

    def feed(self, text: str, start: int = 0, *, until_depth: int | None = None, until_string: bool = False) -> int:
        """Read the text from `start` on, or up to the bracket that brings the depth down to `until_depth`.

        until_string: or to where a string begins or ends
        Returns where it has come to.
        """
        place, was_in_string = start, self.in_string
        while place < len(text) and not (until_string and self.in_string != was_in_string):
            if self._escaped:
                self._escaped = False
                place += 1
            elif self.in_string:
                place = self._feed_string(text, place)
            else:
                found = _STRUCTURE.search(text, place)
                if found is None:
                    return len(text)
                place = found.end()
                self._take(found[0])
                if found[0] in "}]" and self.depth == until_depth:
                    return place
        return place

    def _feed_string(self, text: str, place: int) -> int:
        found = _NEXT.search(text, place)
        if found is None:
            return len(text)
        self._escaped = found[0] == "\\"
        self.in_string = self._escaped
        return found.end()

    def _take(self, character: str) -> None:
        if character == '"':
            self.in_string = True
        else:
            self.depth += 1 if character in "{[" else -1
