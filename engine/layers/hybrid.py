"""Models whose layers are of several kinds. Knows the order of layers; knows nothing of what they compute."""

from collections.abc import Sequence


def index_in_kind(kinds: Sequence[str]) -> list[int]:
    """Per layer its number among the layers of its kind, under which the cache keeps what it stores."""
    return [kinds[:layer].count(kind) for layer, kind in enumerate(kinds)]
