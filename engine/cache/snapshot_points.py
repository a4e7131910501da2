"""Choose where in a prompt snapshots of a sequence's state are taken. Knows token ids and bytes; knows no arrays.

A snapshot may weigh as much as the keys and values of a thousand tokens, so that its price decides how often one pays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.cache.kv_budget import TokenBytes

_LEAST_INTERVAL = 256
_MOST_INTERVAL = 4096
_LEAST_GAIN = 32  # tokens: to read fewer again costs less than a piece of a prompt of its own


@dataclass(frozen=True, slots=True)
class SnapshotPoints:
    """The rule for one model.

    end_ids: tokens that end a turn: what follows one is often another turn, and what precedes it is often the same
    interval: tokens between the snapshots inside long texts
    """

    end_ids: frozenset[int]
    interval: int

    def within(self, tokens: Sequence[int], start: int, reach: int) -> tuple[int, ...]:
        """The positions behind which a snapshot is due, in order: the prompt is prefilled in pieces that end there.

        start: tokens that need not be computed; reach: tokens at the beginning that an earlier sequence had too
        """
        turns = [index + 1 for index, token in enumerate(tokens) if token in self.end_ids]
        wanted = {*turns[:1], *turns[-1:], *range(self.interval, len(tokens), self.interval)}
        if not turns:
            wanted.add(len(tokens) - 1)
        if reach >= start + _LEAST_GAIN:
            wanted.add(reach)
        return tuple(sorted(position for position in wanted if start < position < len(tokens)))


def interval_for(token_bytes: TokenBytes) -> int:
    """The number of tokens whose keys and values have a snapshot's size, in whole steps of 256."""
    per_token = token_bytes.full + sum(size for _, size in token_bytes.windows)
    tokens = token_bytes.state // max(1, per_token)
    steps = -(-tokens // _LEAST_INTERVAL)
    return min(max(_LEAST_INTERVAL, steps * _LEAST_INTERVAL), _MOST_INTERVAL)
