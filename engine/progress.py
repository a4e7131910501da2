"""Progress of a long piece of work, and the wish to end it. Plain values; knows no terminal."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage of the work, and how far it has come: `done` of `total`, in `unit`. note: the latest figure, in words."""

    stage: str
    done: int
    total: int
    unit: str = "tokens"
    note: str = ""


Report = Callable[[Progress], None]
Stop = Callable[[], bool]


def unheard(progress: Progress) -> None:
    """A report that nobody listens to."""


def never() -> bool:
    """A stop that is never wished for."""
    return False
