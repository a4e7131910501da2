"""What long work on a model shows: a bar for people, a line at every tenth for pipes; and how Ctrl-C asks it to end."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from engine.progress import Progress, Report
from server.terminal.output import is_terminal, note, say

_PLAIN_STEP = 0.1


@contextmanager
def work_report(name: str) -> Iterator[Report]:
    """A report that shows how the work on this model comes along, on the error stream."""
    if is_terminal(sys.stderr):
        from server.terminal.rich_terminal import work_bar  # noqa: PLC0415  # Rich takes long to import

        with work_bar(name) as report:
            yield report
    else:
        yield _PlainLines(name)


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Whether the work shall end: the first Ctrl-C asks for it, the second ends the program at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, previous)
        note("Ending; Ctrl-C again ends at once.")

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)


def show_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people, tab-separated fields for pipes."""
    if is_terminal(sys.stdout):
        from server.terminal.rich_terminal import print_table  # noqa: PLC0415  # as above

        print_table(headings, rows)
    else:
        for row in (headings, *rows):
            say("\t".join(row))


class _PlainLines:
    """A line at each new stage and at every tenth of it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = ("", 0)

    def __call__(self, progress: Progress) -> None:
        step = int(progress.done / max(1, progress.total) / _PLAIN_STEP)
        if (progress.stage, step) == self._last:
            return
        self._last = (progress.stage, step)
        comment = f", {progress.note}" if progress.note else ""
        note(f"{self._name}: {progress.stage}, {progress.done:,} of {progress.total:,} {progress.unit}{comment}")
