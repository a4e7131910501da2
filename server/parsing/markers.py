"""Look for markers in text that arrives in pieces. Knows nothing of what they mean."""

from collections.abc import Sequence


def first_marker(text: str, markers: Sequence[str], *, is_last: bool = True) -> tuple[int, str] | None:
    """Where the first marker stands, and which it is; of several at one place, the longest.

    is_last: no further text comes; else a marker is not found while the text may still become a longer one there
    """
    found = [(place, -len(marker), marker) for marker in markers if (place := text.find(marker)) >= 0]
    if not found:
        return None
    place, _, marker = min(found)
    rest = text[place:] if len(text) - place < max(map(len, markers)) else ""
    if rest and not is_last and any(each != rest and each.startswith(rest) for each in markers):
        return None
    return place, marker


def num_held(text: str, markers: Sequence[str]) -> int:
    """Characters at the end of the text that may yet become a marker."""
    longest = max(map(len, markers), default=1) - 1
    starts = range(max(len(text) - longest, 0), len(text))
    return next((len(text) - start for start in starts if _begins(markers, text[start:])), 0)


def _begins(markers: Sequence[str], text: str) -> bool:
    return any(marker.startswith(text) for marker in markers)
