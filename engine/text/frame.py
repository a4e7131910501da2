"""The special tokens around one text, or around two that are read together. Knows ids alone."""

from dataclasses import dataclass

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """Ids before, between and after; `between` stands between the texts of a pair."""

    before: Ids = ()
    between: Ids = ()
    after: Ids = ()

    def around(self, ids: list[int]) -> list[int]:
        """A single text."""
        return [*self.before, *ids, *self.after]

    def around_pair(self, first: list[int], second: list[int]) -> list[int]:
        """Two texts."""
        return [*self.before, *first, *self.between, *second, *self.after]
