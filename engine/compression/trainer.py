"""Steps of training: gradients gathered over small batches, clipped, and AdamW. Knows no files."""

from engine.evaluation.decoder import LoadedDecoder  # isort: skip  # first: loads the BLAS before mlx

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import optimizers

from engine.compression.float_model import Arrays
from engine.compression.losses import distillation_loss
from engine.compression.student import Student
from engine.compression.training_settings import TrainingSettings
from engine.compression.training_state import TrainingState
from engine.evaluation.errors import TrainingDiverged
from engine.progress import Stop

_BETAS = [0.9, 0.95]
_LONGEST_GRADIENT = 1.0
_WARM_UP = 0.05
_LOWEST_RATE = 0.1


class Trainer:
    """A student's training from a state on.

    windows: of the text, all of one length
    """

    def __init__(
        self,
        student: Student,
        teacher: LoadedDecoder,
        windows: Sequence[Sequence[int]],
        settings: TrainingSettings,
        state: TrainingState,
    ) -> None:
        self.state = state
        self._student = student
        self._teacher = teacher
        self._windows = windows
        self._settings = settings
        self._optimizer = optimizers.AdamW(
            settings.learning_rate, betas=_BETAS, weight_decay=settings.weight_decay, bias_correction=True
        )
        self._restore_optimizer()
        self._gradient = mx.value_and_grad(self._loss)

    def step(self, stop: Stop) -> bool:
        """Take one step; False when it was given up half-way because of `stop`. Raises TrainingDiverged."""
        settings = self._settings
        rows = self._rows_of(self.state.step)
        total, gathered = 0.0, None
        for first in range(0, len(rows), settings.rows_at_once):
            if stop():
                return False
            part = rows[first : first + settings.rows_at_once]
            loss, gradients = self._small_step(mx.array([list(row) for row in part]))
            share = len(part) / len(rows)
            total += share * loss
            gathered = _added(gathered, gradients, share)
        assert gathered is not None
        if not math.isfinite(total):
            raise TrainingDiverged(self.state.step + 1, settings.learning_rate)
        self._apply(gathered)
        self.state.losses.append(total)
        return True

    def moments(self) -> Arrays:
        """The optimiser's, as they are saved."""
        state: Any = self._optimizer.state
        return {f"{kind}.{name}": state[name][kind] for name in self.state.weights for kind in ("m", "v")}

    @property
    def fraction(self) -> float:
        """The share of the training that is done, 0 to 1."""
        settings = self._settings
        by_time = 0.0 if settings.minutes is None else self.state.seconds / (60 * settings.minutes)
        return min(1.0, max(self.state.step / settings.steps, by_time))

    def _small_step(self, ids: mx.array) -> tuple[float, Arrays]:
        hidden = self._teacher.hidden(ids, [ids.shape[1]] * ids.shape[0])
        wanted = self._teacher.model.logits(hidden).astype(mx.float32)
        mx.eval(wanted)
        loss, gradients = self._gradient(self.state.weights, ids, wanted)
        mx.eval(loss, gradients)
        value: Any = loss.item()
        return float(value), gradients

    def _loss(self, weights: Mapping[str, mx.array], ids: mx.array, wanted: mx.array) -> mx.array:
        settings = self._settings
        found = self._student.model.logits(weights, ids)
        return distillation_loss(found, wanted, ids, settings.temperature, settings.cross_entropy)

    def _apply(self, gradients: Arrays) -> None:
        clipped, _ = optimizers.clip_grad_norm(gradients, _LONGEST_GRADIENT)  # type: ignore[no-untyped-call]  # mlx's
        self._optimizer.learning_rate = mx.array(self._settings.learning_rate * _rate(self.fraction))
        self.state.weights = self._optimizer.apply_gradients(clipped, self.state.weights)
        mx.eval(self.state.weights, self._optimizer.state)

    def _rows_of(self, step: int) -> list[Sequence[int]]:
        """The windows of a step: every one once, in an order of chance, then again in another."""
        count, start = len(self._windows), step * self._settings.rows
        places = range(start, start + self._settings.rows)
        orders = {
            epoch: np.random.default_rng([self._settings.seed, epoch]).permutation(count)
            for epoch in {place // count for place in places}
        }
        return [self._windows[int(orders[place // count][place % count])] for place in places]

    def _restore_optimizer(self) -> None:
        self._optimizer.init(self.state.weights)
        state: Any = self._optimizer.state
        if self.state.moments:
            state["step"] = mx.array(self.state.step, mx.uint64)
            for name in self.state.weights:
                state[name] = {kind: self.state.moments[f"{kind}.{name}"] for kind in ("m", "v")}
        self.state.moments = {}  # the optimiser has them


def _added(gathered: Arrays | None, gradients: Arrays, share: float) -> Arrays:
    if gathered is None and share == 1.0:
        return gradients
    scaled = {name: array * share for name, array in gradients.items()}
    result = scaled if gathered is None else {name: gathered[name] + array for name, array in scaled.items()}
    mx.eval(result)
    return result


def _rate(fraction: float) -> float:
    """Share of the highest learning rate."""
    rising = min(1.0, (fraction + 1e-3) / _WARM_UP)
    falling = _LOWEST_RATE + (1 - _LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * fraction))
    return rising * falling
