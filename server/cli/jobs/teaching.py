"""Teach a student for a command: find the models, show how it comes along, say and draw what has come of it."""

from dataclasses import asdict
from pathlib import Path

import msgspec

from engine.compression.distill import Distilled, distill
from engine.compression.student import Scratch
from engine.compression.training_settings import TrainingSettings
from engine.device import prepare_device
from engine.evaluation.texts import Text
from server.cli.find import model_here, store_of
from server.cli.jobs.chart import Chart, Series, draw_chart
from server.cli.jobs.new_model import NewModel, name_after, new_model, source_of
from server.settings import Settings
from server.store.model_id import parse_model_id
from server.store.staging import PARTIAL
from server.store.store import Store
from server.terminal.interruption import until_interrupted
from server.terminal.output import note, say
from server.terminal.progress import progress_report

_CURVE_LINES = 12
_BAR = 40


def teach(
    settings: Settings,
    teacher: str,
    student: str | Scratch,
    output: str | None,
    text: Text,
    training: TrainingSettings,
    *,
    dtype: str | None,
    restart: bool,
) -> tuple[str, Distilled]:
    """Teach, and return the new model's name with what has come of it.

    student: a model's name, or the sizes of one from scratch
    output: the new one's name or path; None puts "distilled" after the student's name, or the teacher's
    Raises StoreError and EngineError, TrainingStopped after Ctrl-C; nothing is in the store then.
    """
    store = store_of(settings)
    master = model_here(teacher, store)
    made_from = master if isinstance(student, Scratch) else source_of(student, store)
    device = prepare_device(settings.kernels, settings.threads)
    with (
        new_model(output or name_after(made_from, "distilled"), store, made_from, f"taught by {master.id}") as target,
        until_interrupted() as stop,
        progress_report(target.name) as report,
    ):
        done = distill(
            master.path,
            student if isinstance(student, Scratch) else made_from.path,
            target.path,
            _work_folder(target, store),
            text,
            training,
            device,
            dtype=dtype,
            name=target.name,
            restart=restart,
            report=report,
            stop=stop,
        )
    return target.name, done


def show(name: str, done: Distilled, *, as_json: bool, chart: Path | None) -> None:
    """Say what has come of it, and draw it where a chart is asked for."""
    if chart is not None:
        points = [(float(step), loss) for step, loss in enumerate(done.losses, 1)]
        draw_chart(chart, Chart(f"Distilling {Path(name).name}", "step", "loss in nats", [Series(points)]))
    if as_json:
        say(msgspec.json.format(msgspec.json.encode(asdict(done) | {"output": name}), indent=2).decode())
        return
    if done.resumed_at:
        note(f"Went on from step {done.resumed_at}.")
    for line in curve(done.losses):
        say(line)
    say(
        f"{name} is here: {done.num_parameters / 1e6:,.1f} M parameters in {done.dtype}, "
        f"{done.num_trained / 1e6:,.1f} M of them trained for {len(done.losses)} steps in {done.seconds:.0f} s."
    )


def curve(losses: tuple[float, ...]) -> list[str]:
    """The losses as a few lines with bars, each the mean of as many steps."""
    size = max(1, -(-len(losses) // _CURVE_LINES))
    runs = [losses[first : first + size] for first in range(0, len(losses), size)]
    means = [sum(run) / len(run) for run in runs]
    highest = max(means, default=0.0) or 1.0
    return [
        f"step {number * size + 1:6d}  loss {mean:8.4f}  {'#' * max(1, round(_BAR * mean / highest))}"
        for number, mean in enumerate(means)
    ]


def _work_folder(target: NewModel, store: Store) -> Path:
    """Where steps are saved: hidden, on the new model's disk, and in the same place for the same command."""
    if target.path.is_relative_to(store.root / PARTIAL):
        return store.root / f".{parse_model_id(target.name).folder_name}.training"
    return target.path.parent / f".{target.path.name}.training"
