"""What the command line shows: bars and tables for people, plain lines for pipes. Knows no commands."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TextIO

from server.progress import Progress, Report
from server.store_errors import megabytes
from server.stored_model import StoredModel

_PLAIN_STEP = 0.1


def is_terminal(stream: TextIO) -> bool:
    """True when a person reads this stream."""
    return stream.isatty()


def say(text: str) -> None:
    """A line of the command's result."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line about the command's doing, kept out of its result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextmanager
def pull_report(name: str) -> Iterator[Report]:
    """A report that shows how a pull comes along, on the error stream."""
    if is_terminal(sys.stderr):
        from server.rich_terminal import bar_report  # noqa: PLC0415  # Rich takes long to import

        with bar_report(name) as report:
            yield report
    else:
        yield _PlainLines(name)


class _PlainLines:
    """A line at each new stage and at every tenth of it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = ("", 0)

    def __call__(self, progress: Progress) -> None:
        step = int(progress.done_bytes / progress.total_bytes / _PLAIN_STEP) if progress.total_bytes else 0
        if (progress.stage, step) == self._last:
            return
        self._last = (progress.stage, step)
        size = f" {megabytes(progress.done_bytes)} of {megabytes(progress.total_bytes)}" if progress.total_bytes else ""
        note(f"{self._name}: {progress.stage}{size}")


def show_models(models: Sequence[StoredModel]) -> None:
    """One line per model: a table for people, tab-separated fields for pipes."""
    rows = [_row(model) for model in models]
    if is_terminal(sys.stdout):
        from server.rich_terminal import print_table  # noqa: PLC0415  # Rich takes long to import

        print_table(("MODEL", "SIZE", "FORMAT", "TASK", "STORED", "SOURCE"), rows)
    else:
        for row in rows:
            say("\t".join(row))


def _row(model: StoredModel) -> tuple[str, ...]:
    day = datetime.fromtimestamp(model.created).astimezone().strftime("%Y-%m-%d")
    return (model.id, megabytes(model.num_bytes), model.format, model.task, day, model.source)
