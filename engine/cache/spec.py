"""The kinds of state that a model's layers keep per sequence. Knows numbers alone: imports no mlx."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """The state that a sequence has in a model.

    windows: per layer that keeps keys and values the number of tokens it sees, or None for all
    chunked: a window begins anew every so many tokens, and a token sees those of its own window alone
    num_states: layers that keep a state of fixed size
    readers: per layer that keeps nothing, but reads what another has stored, that layer's number among those of windows
    """

    windows: Sequence[int | None]
    num_states: int = 0
    readers: Sequence[int] = ()
    chunked: bool = False

    def num_seen(self, window: int | None, position: int) -> int:
        """The number of tokens that the token at this position sees in a layer, itself included."""
        if window is None:
            return position + 1
        return position % window + 1 if self.chunked else min(position + 1, window)

    @property
    def num_layers(self) -> int:
        """Layers that mix tokens, whatever they keep."""
        return len(self.windows) + self.num_states + len(self.readers)


def index_in_kind(kinds: Sequence[str]) -> list[int]:
    """Per layer its number among the layers of its kind, under which the cache keeps what it stores."""
    return [kinds[:layer].count(kind) for layer, kind in enumerate(kinds)]
