"""The output of the command line: tables for people, tab-separated lines for pipes. Knows no commands."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TextIO

from server.sizes import megabytes
from server.store.stored_model import StoredModel


def is_terminal(stream: TextIO) -> bool:
    """True when a person reads this stream."""
    return stream.isatty()


def say(text: str) -> None:
    """A line of the command's result."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line about the work of the command, on the error stream and so apart from its result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


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
