"""The saved steps of a training run, to go on from after it was killed: a folder per step, whole or not at all.

The run's own folder is hidden and holds no config.json: it is never taken for a model. One process at a time uses it.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.load import load_entry
from engine.checkpoint.shards import SINGLE_FILE, read_shards
from engine.conversion.errors import OutputBusy, OutputUnwritable
from engine.conversion.folder_writer import FolderWriter, TensorSpec
from engine.conversion.new_folder import new_folder, require_space
from engine.errors import CheckpointCorrupt
from engine.evaluation.errors import TrainingDiffers

_STATE_FILE = "state.json"
_MAX_STATE_BYTES = 64 << 20
_PREFIX = "step-"


@dataclass
class TrainingState:
    """The state of a run after a step.

    weights: those that are trained; moments: of the optimiser, as "m.NAME" and "v.NAME"
    losses: of each step, in nats
    seconds: spent on training so far
    """

    weights: dict[str, mx.array]
    moments: dict[str, mx.array]
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """Steps that are done."""
        return len(self.losses)


class TrainingFolder:
    """The saved steps of one run; `open_training_folder` makes one.

    name: of the model that is made, for the messages
    settings: of the run; what an earlier run saved is taken up when they are the same
    """

    def __init__(self, path: Path, name: str, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._name = name
        self._settings = dict(settings)

    def load(self) -> TrainingState | None:
        """The newest saved step; None where there is none. Raises TrainingDiffers and CheckpointError."""
        steps = self._steps()
        if not steps:
            return None
        folder = ModelFolder(steps[-1])
        state = folder.json(_STATE_FILE, _MAX_STATE_BYTES)
        self._compare(state.get("settings"))
        tensors = {name: load_entry(entry)[name] for name, entry in read_shards(folder).items()}
        weights = {name.removeprefix("w."): array for name, array in tensors.items() if name.startswith("w.")}
        moments = {name: array for name, array in tensors.items() if not name.startswith("w.")}
        try:
            return TrainingState(weights, moments, [float(loss) for loss in state["losses"]], float(state["seconds"]))
        except (KeyError, TypeError, ValueError):
            raise CheckpointCorrupt(_STATE_FILE, "it is not what a training run saves") from None

    def save(self, state: TrainingState) -> None:
        """Save a step, then delete those before it. Raises ConversionError."""
        before = self._steps()
        target = self._path / f"{_PREFIX}{state.step:08d}"
        if target in before:
            return
        tensors = {f"w.{name}": array for name, array in state.weights.items()} | state.moments
        specs = [TensorSpec.of(name, array) for name, array in tensors.items()]
        num_bytes = sum(spec.num_bytes for spec in specs)
        with new_folder(target) as folder:
            require_space(folder, num_bytes)
            writer = FolderWriter(folder, specs, "mlx", num_bytes + 1)
            try:
                for name, array in tensors.items():
                    writer.write(name, array)
                writer.finish()
            finally:
                writer.close()
            assert (folder / SINGLE_FILE).exists()
            fields = {"settings": self._settings, "losses": state.losses, "seconds": state.seconds}
            (folder / _STATE_FILE).write_text(json.dumps(fields))
        for old in before:
            shutil.rmtree(old, ignore_errors=True)

    def delete(self) -> None:
        """Forget the run."""
        shutil.rmtree(self._path, ignore_errors=True)

    def _steps(self) -> list[Path]:
        return sorted(path for path in self._path.iterdir() if path.name.startswith(_PREFIX))

    def _compare(self, saved: Any) -> None:
        if not isinstance(saved, dict):
            raise CheckpointCorrupt(_STATE_FILE, "it is not what a training run saves")
        for key, value in self._settings.items():
            if json.loads(json.dumps(value)) != saved.get(key):
                raise TrainingDiffers(self._name, key.replace("_", " "))


@contextmanager
def open_training_folder(
    path: Path, name: str, settings: Mapping[str, Any], *, restart: bool = False
) -> Iterator[TrainingFolder]:
    """The folder of a run, held by this process in the block.

    restart: forget what an earlier run has saved
    Raises OutputBusy when another process trains there, OutputUnwritable where the folder cannot be made.
    """
    if restart and path.is_dir():
        with _locked(path, name):
            shutil.rmtree(path, ignore_errors=True)
    with _writable(path, name):
        path.mkdir(parents=True, exist_ok=True)
    with _locked(path, name):
        for partial in path.glob(f".{_PREFIX}*"):
            shutil.rmtree(partial, ignore_errors=True)
        yield TrainingFolder(path, name, settings)


@contextmanager
def _writable(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputUnwritable(name, error.strerror or type(error).__name__) from None


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputBusy(name) from None
        yield
    finally:
        os.close(descriptor)
