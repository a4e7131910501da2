"""What the command line shows: bars and tables for people, plain lines for pipes. Knows no commands."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TextIO

from server.sizes import megabytes
from server.store.progress import Pace, Progress, Report
from server.store.stored_model import StoredModel

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
        self._pace = Pace()

    def __call__(self, progress: Progress) -> None:
        pace = self._pace.see(progress)
        step = int(progress.done_bytes / progress.total_bytes / _PLAIN_STEP) if progress.total_bytes else 0
        if (progress.stage, step) == self._last:
            return
        self._last = (progress.stage, step)
        size = f" {megabytes(progress.done_bytes)} of {megabytes(progress.total_bytes)}" if progress.total_bytes else ""
        speed = "" if pace is None or not size else f", {megabytes(int(pace[0]))}/s, {duration(pace[1])} left"
        note(f"{self._name}: {progress.stage}{size}{speed}")


def show_models(models: Sequence[StoredModel]) -> None:
    """One line per model."""
    show_rows(("MODEL", "SIZE", "FORMAT", "TASK", "STORED", "SOURCE"), [_row(model) for model in models])


def show_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people, with headings; tab-separated fields for pipes, without."""
    if is_terminal(sys.stdout):
        from server.terminal.rich_terminal import print_table  # noqa: PLC0415  # Rich takes long to import

        print_table(headings, rows)
    else:
        for row in rows:
            say("\t".join(row))


def print_json(value: Any) -> None:
    """The result as indented JSON."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def duration(seconds: float) -> str:
    """A time for people: 9 s, 4:05 min, 1:02 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"


def day(unix_seconds: float) -> str:
    """A date in this machine's time zone."""
    return datetime.fromtimestamp(unix_seconds).astimezone().strftime("%Y-%m-%d")


def _row(model: StoredModel) -> tuple[str, ...]:
    return (model.id, megabytes(model.num_bytes), model.format, model.task, day(model.created), model.source)
