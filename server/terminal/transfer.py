"""The figures of a transfer: its amount, its speed, and the time that it still takes. Knows nothing of terminals."""

from collections.abc import Callable
from time import monotonic

from engine.progress import Progress
from server.sizes import megabytes


def amount(progress: Progress) -> str:
    """The part that is done and the whole, with their unit; "" where the number of bytes is unknown."""
    if progress.unit != "bytes":
        return f"{progress.done:,} of {progress.total:,} {progress.unit}"
    return f"{megabytes(progress.done)} of {megabytes(progress.total)}" if progress.total else ""


class TransferSpeed:
    """Bytes per second of a stage, counted from its first report: bytes of an earlier attempt do not count."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._started, self._start_bytes = 0.0, 0

    def update(self, progress: Progress) -> tuple[float, float] | None:
        """Bytes per second, and seconds until the stage is done; None before the first bytes have come."""
        if progress.stage != self._stage:
            self._stage, self._started, self._start_bytes = progress.stage, self._clock(), progress.done
        seconds, done_bytes = self._clock() - self._started, progress.done - self._start_bytes
        if seconds <= 0 or done_bytes <= 0:
            return None
        speed = done_bytes / seconds
        return speed, max(0, progress.total - progress.done) / speed
