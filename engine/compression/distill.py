"""Teach a small model what a larger one says: train on its logits, save steps on the way, write an ordinary model."""

from engine.evaluation.decoder import LoadedDecoder, load_decoder  # isort: skip  # first: loads the BLAS before mlx

import hashlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from engine.compression.student import Scratch, Student, make_student, open_student
from engine.compression.trainer import Trainer
from engine.compression.training_settings import TrainingSettings
from engine.compression.training_state import TrainingFolder, TrainingState, open_training_folder
from engine.conversion.errors import OutputExists
from engine.conversion.new_folder import require_space
from engine.device import Device
from engine.errors import ChoiceInvalid
from engine.evaluation.errors import MemoryTooSmall, TextUnusable, TrainingStopped
from engine.evaluation.evaluate import check_vocabularies
from engine.evaluation.texts import Text, cut_windows
from engine.machine import memory_bytes
from engine.progress import Progress, Report, Stop, never, unheard

_DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}
_SHORTEST, _LONGEST = 16, 1 << 16
# Bytes per trained weight: itself, its gradient, the gathered one, two moments, and room to replace them.
_TRAINED_BYTES = 24


@dataclass(frozen=True, slots=True)
class Distilled:
    """The outcome of a training run. Losses are in nats, one per step; seconds are of training alone.

    resumed_at: the saved step that the run went on from; 0 where it began
    """

    num_parameters: int
    num_trained: int
    losses: tuple[float, ...]
    seconds: float
    resumed_at: int
    dtype: str


def distill(
    teacher_path: Path,
    student_from: Path | Scratch,
    target: Path,
    work_folder: Path,
    text: Text,
    settings: TrainingSettings,
    device: Device,
    *,
    dtype: str | None = None,
    name: str = "",
    restart: bool = False,
    report: Report = unheard,
    stop: Stop = never,
) -> Distilled:
    """Teach a student and write it to the folder `target`.

    student_from: a model to begin with, such as a pruned copy of the teacher; or the sizes of one with random weights
    work_folder: where steps are saved, hidden, on the target's disk; a run that finds some there goes on from the last
    dtype: of the written weights; None takes the student's or the teacher's own float type, float16 for quantised ones
    name: of the new model, for messages; the target's own otherwise
    Raises CheckpointError, ChoiceInvalid, ConversionError and CompressionError; TrainingStopped after `stop`.
    """
    if os.path.lexists(target):
        raise OutputExists(name or target.name)
    _check(settings)
    teacher = load_decoder(
        teacher_path,
        device,
        lambda done, total: report(Progress("loading the teacher", done // 10**6, total // 10**6, "MB")),
    )
    student = _student(student_from, teacher, device, report)
    windows = _windows(text, teacher, settings.window_tokens)
    names = student.trained_names(tables=student.random if settings.tables is None else settings.tables)
    trained = {name: student.weights[name] for name in names}
    _check_memory(student, trained)
    identity = _identity(teacher, student_from, student, text, settings)
    with open_training_folder(work_folder, name or target.name, identity, restart=restart) as folder:
        require_space(work_folder, _disk_bytes(student, trained))
        state = folder.load() or TrainingState(trained, {})
        resumed_at = state.step
        trainer = Trainer(student, teacher, windows, settings, state)
        _train(trainer, folder, settings, report, stop)
        kind = dtype or _own_type(student, teacher)
        report(Progress("writing", 0, 1, "model"))
        student.write(target, state.weights, _DTYPES[kind])
        report(Progress("writing", 1, 1, "model"))
        folder.delete()
    return Distilled(
        num_parameters=sum(array.size for array in student.weights.values()),
        num_trained=sum(array.size for array in trained.values()),
        losses=tuple(state.losses),
        seconds=state.seconds,
        resumed_at=resumed_at,
        dtype=kind,
    )


def _windows(text: Text, teacher: LoadedDecoder, window_tokens: int) -> list[list[int]]:
    """The text in windows of this length, without a shorter one at the end."""
    windows = [each for each in cut_windows(text, teacher.tokenizer, window_tokens) if len(each) == window_tokens]
    if not windows:
        raise TextUnusable(text.name, f"it has less than {window_tokens} tokens, a single window")
    return windows


def _train(trainer: Trainer, folder: TrainingFolder, settings: TrainingSettings, report: Report, stop: Stop) -> None:
    state, saved_at = trainer.state, time.monotonic()
    while trainer.fraction < 1.0:
        started = time.monotonic()
        done = trainer.step(stop)
        state.seconds += time.monotonic() - started
        if not done:
            if state.step:
                _save(trainer, folder)
            raise TrainingStopped(state.step)
        report(_progress(trainer, settings))
        if time.monotonic() - saved_at >= settings.save_seconds:
            _save(trainer, folder)
            saved_at = time.monotonic()
    if state.step:
        _save(trainer, folder)


def _save(trainer: Trainer, folder: TrainingFolder) -> None:
    state = trainer.state
    folder.save(TrainingState(state.weights, trainer.moments(), state.losses, state.seconds))


def _progress(trainer: Trainer, settings: TrainingSettings) -> Progress:
    state, note = trainer.state, f"loss {trainer.state.losses[-1]:.4f}"
    if settings.minutes is not None and trainer.fraction > state.step / settings.steps:
        whole = round(60 * settings.minutes)
        return Progress("teaching", min(round(state.seconds), whole), whole, "s", f"step {state.step}, {note}")
    return Progress("teaching", state.step, settings.steps, "steps", note)


def _student(student_from: Path | Scratch, teacher: LoadedDecoder, device: Device, report: Report) -> Student:
    precision = mx.bfloat16 if device.kind == "metal" else mx.float32
    if isinstance(student_from, Scratch):
        return make_student(student_from, teacher, precision)
    student, decoder = open_student(student_from, device, precision, report)
    check_vocabularies(teacher, decoder)
    return student


def _check(settings: TrainingSettings) -> None:
    bounds: list[tuple[str, float, float, float]] = [
        ("steps", settings.steps, 1, 10**7),
        ("minutes", 1.0 if settings.minutes is None else settings.minutes, 0.01, 10**6),
        ("learning-rate", settings.learning_rate, 1e-8, 1.0),
        ("temperature", settings.temperature, 0.05, 100.0),
        ("cross-entropy", settings.cross_entropy, 0.0, 1.0),
        ("window", settings.window_tokens, _SHORTEST, _LONGEST),
        ("rows", settings.rows, 1, 4096),
        ("rows-at-once", settings.rows_at_once, 1, settings.rows),
    ]
    for name, value, lowest, highest in bounds:
        if not lowest <= value <= highest:
            raise ChoiceInvalid(name, f"{value:g} is not between {lowest:g} and {highest:g}")


def _check_memory(student: Student, trained: dict[str, mx.array]) -> None:
    whole = sum(array.size for array in student.weights.values())
    need = 4 * whole + _TRAINED_BYTES * sum(array.size for array in trained.values())
    have = memory_bytes()
    if need > have:
        raise MemoryTooSmall(need, have)


def _disk_bytes(student: Student, trained: dict[str, mx.array]) -> int:
    """A saved step, weights and two moments in float32; and the model in 16 bits while the last step is still there."""
    num_trained, num_weights = (sum(array.size for array in each.values()) for each in (trained, student.weights))
    return 12 * num_trained + 2 * num_weights


def _identity(
    teacher: LoadedDecoder, student_from: Path | Scratch, student: Student, text: Text, settings: TrainingSettings
) -> dict[str, Any]:
    """The values that an interrupted run and the run that goes on from it must share."""
    begun = asdict(student_from) if isinstance(student_from, Scratch) else [student.name, student.checkpoint.num_bytes]
    own = {key: value for key, value in asdict(settings).items() if key != "save_seconds"}
    return own | {
        "teacher": [teacher.name, teacher.checkpoint.num_bytes],
        "student": begun,
        "text": hashlib.sha256(text.content.encode()).hexdigest(),
    }


def _own_type(student: Student, teacher: LoadedDecoder) -> str:
    for checkpoint in (student.checkpoint, teacher.checkpoint):
        named = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
        if not checkpoint.quantization and named in _DTYPES:
            return str(named)
    return "float16"
