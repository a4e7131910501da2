"""Measure models one after the other in this process, each let go before the next is loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.device import prepare_device, return_freed_memory
from engine.evaluation.decoder import LoadedDecoder, load_decoder
from engine.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate
from engine.evaluation.texts import Text
from engine.progress import Progress, Report, Stop
from server.cli.find import model_here, store_of
from server.terminal.interruption import until_interrupted
from server.terminal.progress import progress_report

if TYPE_CHECKING:
    from server.settings import Settings
    from server.store.stored_model import StoredModel


class Measuring:
    """Measurements with one device and one reference.

    interrupted: True when Ctrl-C has ended them early
    """

    def __init__(self, settings: "Settings", against: str | None) -> None:
        self._store = store_of(settings)
        self._device = prepare_device(settings.kernels, settings.threads)
        self._against = None if against is None else model_here(against, self._store)
        self.interrupted = False

    def run(self, names: Sequence[str], text: Text, settings: EvaluationSettings) -> list[Evaluation]:
        """One evaluation per model; fewer, and the last one partial, when interrupted."""
        stored = [model_here(name, self._store) for name in names]
        found = []
        with until_interrupted() as stop:
            reference = None if self._against is None else self._load(self._against)
            for model in stored:
                if stop():
                    break
                evaluation = self._measure(model, reference, text, settings, stop)
                return_freed_memory()
                if evaluation is not None:
                    found.append(evaluation)
            self.interrupted = stop()
        return found

    def _measure(
        self,
        model: "StoredModel",
        reference: LoadedDecoder | None,
        text: Text,
        settings: EvaluationSettings,
        stop: Stop,
    ) -> Evaluation | None:
        with progress_report(model.id) as report:
            return evaluate(self._load(model, report), reference, text, settings, report, stop)

    def _load(self, model: "StoredModel", report: Report | None = None) -> LoadedDecoder:
        def loading(done: int, total: int) -> None:
            if report is not None:
                report(Progress("loading", done // 1_000_000, total // 1_000_000, "MB"))

        return load_decoder(model.path, self._device, loading, model.id)
