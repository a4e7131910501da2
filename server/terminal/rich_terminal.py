"""The bars and tables of the command line, drawn with Rich, which takes NO_COLOR and the terminal's width into account.

Imported only where a person looks at a terminal: Rich takes a tenth of a second to import.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from engine.progress import Progress as WorkProgress
from engine.progress import Report as WorkReport
from server.store.progress import Progress, Report

_NUMBERS = {"SIZE", "PARAMETERS", "PERPLEXITY", "BITS/BYTE", "DIVERGENCE", "TOP-1", "READ TOK/S", "WRITE TOK/S"}


@contextmanager
def bar_report(name: str) -> Iterator[Report]:
    """A bar on the error stream, with bytes, speed and the time that is left."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)

        def report(progress: Progress) -> None:
            description, total = f"{name}: {progress.stage}", progress.total_bytes or None
            bar.update(task, description=description, completed=progress.done_bytes, total=total)

        yield report


@contextmanager
def work_bar(name: str) -> Iterator[WorkReport]:
    """A bar on the error stream for work on a model: what is counted, the latest figure, and the time that is left."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None, unit="", note="")

        def report(progress: WorkProgress) -> None:
            bar.update(
                task,
                description=f"{name}: {progress.stage}",
                completed=progress.done,
                total=progress.total,
                unit=progress.unit,
                note=progress.note,
            )

        yield report


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table without lines; the first column is never cut."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading == headings[0], justify="right" if heading in _NUMBERS else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
