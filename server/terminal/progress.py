"""The progress of long work as a person sees it: a bar at a terminal, plain lines in a pipe. Knows no commands."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from engine.progress import Progress, Report
from server.sizes import megabytes
from server.terminal.output import duration, is_terminal, note
from server.terminal.transfer import TransferSpeed, amount

_PLAIN_STEP = 0.1


@contextmanager
def progress_report(name: str) -> Iterator[Report]:
    """A report that shows the progress of the work on this model, on the error stream."""
    if is_terminal(sys.stderr):
        from server.terminal.rich_terminal import bar_report  # noqa: PLC0415  # Rich takes long to import

        with bar_report(name) as report:
            yield report
    else:
        yield _PlainLines(name)


class _PlainLines:
    """A line at each new stage and at every tenth of it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = ("", 0)
        self._speed = TransferSpeed()

    def __call__(self, progress: Progress) -> None:
        speed = self._speed.update(progress) if progress.unit == "bytes" else None
        step = int(progress.done / max(1, progress.total) / _PLAIN_STEP)
        if (progress.stage, step) == self._last:
            return
        self._last = (progress.stage, step)
        parts = [progress.stage, amount(progress), progress.note]
        if speed is not None:
            parts += [f"{megabytes(int(speed[0]))}/s", f"{duration(speed[1])} left"]
        note(f"{self._name}: {', '.join(part for part in parts if part)}")
