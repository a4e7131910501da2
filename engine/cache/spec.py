"""The kinds of state that a model's layers keep per sequence. Knows numbers alone: imports no mlx."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """The state that a sequence has in a model.

    windows: per layer that keeps keys and values the number of tokens it sees, or None for all
    num_states: layers that keep a state of fixed size
    readers: per layer that keeps nothing, but reads what another has stored, that layer's number among those of windows
    """

    windows: Sequence[int | None]
    num_states: int = 0
    readers: Sequence[int] = ()

    @property
    def num_layers(self) -> int:
        """Layers that mix tokens, whatever they keep."""
        return len(self.windows) + self.num_states + len(self.readers)


def index_in_kind(kinds: Sequence[str]) -> list[int]:
    """Per layer its number among the layers of its kind, under which the cache keeps what it stores."""
    return [kinds[:layer].count(kind) for layer, kind in enumerate(kinds)]
