"""The memory for keys and values: slots of every size, and the bytes they take. Pure arithmetic: imports no mlx."""

from collections import Counter
from dataclasses import dataclass

SMALLEST_CAPACITY = 256
_MOST_TOKENS = 2**24


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """Bytes that a model keeps per token, over all layers.

    full: layers that see everything; source: cross-attention, per source token
    windows: (window, bytes per token) of layers with a sliding window
    state: layers that keep a state of fixed size, per sequence
    """

    full: int
    windows: tuple[tuple[int, int], ...] = ()
    source: int = 0
    state: int = 0

    def slot_bytes(self, capacity: int, source_capacity: int = 0) -> int:
        """Bytes of one slot."""
        rings = sum(min(capacity, window) * size for window, size in self.windows)
        return capacity * self.full + rings + source_capacity * self.source + self.state


class KVBudget:
    """The slots of every size, in use and free, and other bytes that count towards the limit.

    limit_bytes: of all slots and other bytes together; None is no limit
    """

    def __init__(self, token_bytes: TokenBytes, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self._token_bytes = token_bytes
        self._slots: dict[tuple[int, int], int] = {}
        self._used: Counter[tuple[int, int]] = Counter()
        self._held_bytes = 0

    def fits(self, num_tokens: int, source_length: int = 0, num_copies: int = 0) -> bool:
        """True when there is memory for a slot of this size now, and for copies of it apart."""
        if self.limit_bytes is None:
            return True
        key = _key(num_tokens, source_length)
        one = self._token_bytes.slot_bytes(*key)
        full = self._used[key] == self._slots.get(key, 0)
        return self.num_bytes + one * (full + num_copies) <= self.limit_bytes

    def take(self, num_tokens: int, source_length: int = 0) -> tuple[int, int]:
        """Count a slot as used. Returns its capacity and its source's."""
        key = _key(num_tokens, source_length)
        if self._used[key] == self._slots.get(key, 0):
            self._slots[key] = self._slots.get(key, 0) + self._new_slots(key)
        self._used[key] += 1
        return key

    def give_back(self, capacity: int, source_capacity: int) -> None:
        """Count a slot as free; when none of its size is used, they are all gone."""
        key = (capacity, source_capacity)
        self._used[key] -= 1
        if not self._used[key]:
            del self._used[key], self._slots[key]

    def hold(self, num_bytes: int) -> None:
        """Count other bytes as taken; negative ones as given back."""
        self._held_bytes += num_bytes

    def num_slots(self, capacity: int, source_capacity: int) -> int:
        """Slots of one size, used and free."""
        return self._slots.get((capacity, source_capacity), 0)

    def needed_bytes(self, num_tokens: int, source_length: int = 0) -> int:
        """Bytes of one slot for this many tokens."""
        return self._token_bytes.slot_bytes(*_key(num_tokens, source_length))

    @property
    def longest(self) -> int | None:
        """Tokens of the largest slot that the limit allows; None where there is no limit."""
        if self.limit_bytes is None:
            return None
        capacity = SMALLEST_CAPACITY
        while capacity < _MOST_TOKENS and self._token_bytes.slot_bytes(2 * capacity) <= self.limit_bytes:
            capacity *= 2
        return capacity

    @property
    def num_bytes(self) -> int:
        """Bytes of all slots, used and free, and other bytes that are held."""
        slots = sum(self._token_bytes.slot_bytes(*key) * count for key, count in self._slots.items())
        return slots + self._held_bytes

    @property
    def num_used(self) -> int:
        """Slots in use."""
        return self._used.total()

    def _new_slots(self, key: tuple[int, int]) -> int:
        """A slab doubles when it is full, as far as the limit allows."""
        doubled = max(self._slots.get(key, 0), 1)
        if self.limit_bytes is None:
            return doubled
        left = self.limit_bytes - self.num_bytes
        return max(1, min(doubled, left // max(1, self._token_bytes.slot_bytes(*key))))


def capacity_for(num_tokens: int) -> int:
    """The capacity of a slot for this many tokens: 256, 512, 1024 and so on."""
    capacity = SMALLEST_CAPACITY
    while capacity < num_tokens:
        capacity *= 2
    return capacity


def _key(num_tokens: int, source_length: int) -> tuple[int, int]:
    return capacity_for(num_tokens), capacity_for(source_length) if source_length else 0
