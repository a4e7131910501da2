"""The bars and tables of the command line, drawn with Rich, which takes NO_COLOR and the terminal's width into account.

Imported only where a person looks at a terminal: Rich takes a tenth of a second to import.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from engine.progress import Progress, Report
from server.sizes import megabytes
from server.terminal.transfer import TransferSpeed, amount

_NUMBERS = {"SIZE", "PARAMETERS", "PERPLEXITY", "BITS/BYTE", "DIVERGENCE", "TOP-1", "READ TOK/S", "WRITE TOK/S"}


@contextmanager
def bar_report(name: str) -> Iterator[Report]:
    """A bar on the error stream, with the amount that is done, the latest figure and the time that is left."""
    speed = TransferSpeed()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None, amount="", note="")

        def report(progress: Progress) -> None:
            now = speed.update(progress) if progress.unit == "bytes" else None
            bar.update(
                task,
                description=f"{name}: {progress.stage}",
                completed=progress.done,
                total=progress.total or None,
                amount=amount(progress),
                note=progress.note if now is None else f"{megabytes(int(now[0]))}/s",
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
