"""Make one model of another for a command: find it, show how it comes along, say what it has become."""

from collections.abc import Callable
from pathlib import Path

from engine.compression.progress import Progress
from engine.conversion.rewrite import ConversionProgress, Report, Written
from server.commands.find import store_of
from server.new_model import name_after, new_model, source_of
from server.settings import Settings
from server.store_errors import megabytes
from server.terminal import note, say
from server.work_terminal import work_report

Work = Callable[[Path, Path, Report], Written]
_MAX_NAMED = 4


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
        work_report(source.id) as show,
    ):
        written = work(source.path, target.path, lambda progress: show(_shown(progress)))
    if written.kept and written.num_packed:
        more = f" and {len(written.kept) - _MAX_NAMED} more" if len(written.kept) > _MAX_NAMED else ""
        note(f"Not packed: {', '.join(written.kept[:_MAX_NAMED])}{more}.")
    say(
        f"{target.name} is here: {megabytes(written.num_bytes)}, {written.bits_per_weight:.2f} bits per weight, "
        f"{written.num_packed} matrices packed."
    )


def _shown(progress: ConversionProgress) -> Progress:
    layer = f"layer {progress.layer} of {progress.num_layers}" if progress.layer else ""
    return Progress("writing", progress.done_bytes // 1_000_000, progress.total_bytes // 1_000_000, "MB", layer)
