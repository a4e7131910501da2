"""How far a pull or a load has come, how fast, and how long it will still take. Knows nothing of terminals."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

Stage = Literal["waiting for another process", "downloading", "unpacking", "copying", "verifying", "loading"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of the stage that are done, of how many; a total of 0 is unknown."""

    stage: Stage
    done_bytes: int = 0
    total_bytes: int = 0


Report = Callable[[Progress], None]


class Pace:
    """Bytes per second of a stage, from its first report on: what an earlier attempt left counts for nothing."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._started, self._start_bytes = 0.0, 0

    def see(self, progress: Progress) -> tuple[float, float] | None:
        """Bytes per second, and seconds until the stage is done; None while nothing can be said."""
        if progress.stage != self._stage:
            self._stage, self._started, self._start_bytes = progress.stage, self._clock(), progress.done_bytes
        seconds, done_bytes = self._clock() - self._started, progress.done_bytes - self._start_bytes
        if seconds <= 0 or done_bytes <= 0:
            return None
        speed = done_bytes / seconds
        return speed, max(0, progress.total_bytes - progress.done_bytes) / speed
