"""Make one model of another for a command: find it, show how it comes along, say what it has become."""

import re
from collections.abc import Callable
from pathlib import Path

from engine.conversion.rewrite import Written
from engine.errors import ChoiceInvalid
from engine.progress import Report
from server.cli.find import store_of
from server.cli.jobs.new_model import name_after, new_model, source_of
from server.settings import Settings
from server.sizes import megabytes, shown
from server.terminal.output import note, say
from server.terminal.progress import progress_report

Work = Callable[[Path, Path, Report], Written]
_MAX_NAMED = 4
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([KMG]B)", re.ASCII | re.IGNORECASE)
_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9}


def make(name: str, output: str | None, settings: Settings, suffix: str, work: Work) -> None:
    """Do the work from the model of that name to a new one.

    output: the new one's name or path; None puts the suffix after the model's
    work: takes the source, the target and a report
    Raises StoreError and EngineError; nothing is left of the new model then.
    """
    store = store_of(settings)
    source = source_of(name, store)
    with (
        new_model(output or name_after(source, suffix), store, source, suffix) as target,
        progress_report(source.id) as show,
    ):
        written = work(source.path, target.path, show)
    if written.kept and written.num_quantized:
        more = f" and {len(written.kept) - _MAX_NAMED} more" if len(written.kept) > _MAX_NAMED else ""
        note(f"Not packed: {', '.join(written.kept[:_MAX_NAMED])}{more}.")
    say(
        f"{target.name} is here: {megabytes(written.num_bytes)}, {written.bits_per_weight:.2f} bits per weight, "
        f"{written.num_quantized} matrices packed."
    )


def bytes_of_size(text: str) -> int:
    """A size for people, in decimal units: "75MB", "4.2 GB". Raises ChoiceInvalid."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ChoiceInvalid("target size", f"{shown(text)} is no size: one looks like 500MB or 4.2GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])
