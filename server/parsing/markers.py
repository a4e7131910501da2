"""Look for markers in text that arrives in pieces. Knows nothing of what they mean."""

from collections.abc import Sequence


def first_marker(text: str, markers: Sequence[str]) -> tuple[int, str] | None:
    """Where the first marker stands, and which it is; of several at one place, the longest."""
    found = [(place, -len(marker), marker) for marker in markers if (place := text.find(marker)) >= 0]
    if not found:
        return None
    place, _, marker = min(found)
    return place, marker


def num_held(text: str, markers: Sequence[str]) -> int:
    """Characters at the end of the text that may yet become a marker."""
    longest = max(map(len, markers), default=1) - 1
    starts = range(max(len(text) - longest, 0), len(text))
    return next((len(text) - start for start in starts if _begins(markers, text[start:])), 0)


def _begins(markers: Sequence[str], text: str) -> bool:
    return any(marker.startswith(text) for marker in markers)
