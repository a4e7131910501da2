"""Rotations that depend on the length of a text: which keys may be shared, and when all are computed again.

Follows transformers, where the tokens that have been read choose the rotation, never those that may still come. Pure
arithmetic: imports no mlx.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_REGIME_SHIFT = 32  # above every token id


@dataclass(frozen=True, slots=True)
class RotationRule:
    """A text of at most `threshold` tokens has one rotation, a longer one has another.

    A prompt has one rotation as a whole. A later token past the threshold is rotated by its own length, behind keys
    that stay as they are, unless the model recomputes.

    per_length: every length past the threshold has a rotation of its own ("dynamic"); else all of them share one
        ("longrope")
    recomputes: a text that outgrows the threshold is computed again from its beginning, as transformers does for Phi 3
    """

    threshold: int
    per_length: bool = False
    recomputes: bool = False

    def regime(self, length: int) -> int:
        """The same number for all lengths that have one rotation; 0 up to the threshold."""
        if length <= self.threshold:
            return 0
        return length if self.per_length else 1

    def restarts(self, rotated: int, length: int) -> bool:
        """True when a text whose rotation was chosen by `rotated` tokens is computed again at this length."""
        return self.recomputes and self.regime(rotated) != self.regime(length)

    def alone_from(self, rotated: int) -> int | None:
        """The position from which on every token is rotated by its own length; None where none is."""
        if self.per_length:
            return max(rotated, self.threshold)
        return self.threshold if rotated <= self.threshold and not self.recomputes else None

    def keys(self, tokens: Sequence[int], rotated: int) -> list[int]:
        """The tokens by which the prefix cache finds a text: the first one is marked with the regime."""
        if not tokens:
            return []
        return [tokens[0] | self.regime(rotated) << _REGIME_SHIFT, *tokens[1:]]
