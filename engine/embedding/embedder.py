"""Submit, cancel, step: a model on disk that makes vectors or scores of texts. Knows no text and no HTTP.

One thread owns an embedder: MLX's streams belong to the thread that loads the model.
"""

from engine.device import Device, prepare_device  # isort: skip  # first: loads the BLAS before mlx

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from engine.embedding.encoding import EncodingOutput, EncodingRequest, TokenInput
from engine.embedding.input_queue import InputQueue, QueuedInput
from engine.embedding.pooling import Pooling
from engine.embedding.reader import Reader, build_reader
from engine.embedding.sentence_settings import MODULES_FILE, SentenceSettings, read_sentence_settings
from engine.errors import CheckpointUnsupported, ContextLengthExceeded, NotFinite, ParameterInvalid
from engine.model import OnProgress
from engine.scheduler import StepTime
from engine.settings import EngineStats, KernelChoice, ModelInfo

_log = logging.getLogger(__name__)
_BATCH_FAILED = "The engine failed while reading this input."

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbedderSettings:
    """The settings of an embedder, whatever the model.

    max_batch_tokens: read in one step, padding included, and fewer where a step would take long; a single longer text
        is read by itself
    context_length: upper bound on the model's own; None leaves it
    bits: see engine.model.build_model
    kernels, threads: see engine.device.prepare_device
    before_batch: called with every batch before it is read; what it raises fails that batch (fault injection)
    """

    max_batch_tokens: int = 4096
    context_length: int | None = None
    bits: int | None = None
    kernels: KernelChoice = "native"
    threads: int | None = None
    before_batch: Callable[[Sequence[QueuedInput]], None] | None = None


class Embedder:
    """A model that reads whole texts.

    path: a checkpoint folder
    on_progress: called while loading with bytes done and bytes in all
    Raises CheckpointError when the model cannot be used.
    """

    def __init__(
        self,
        path: Path | str,
        settings: EmbedderSettings | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        settings = settings or EmbedderSettings()
        device = prepare_device(settings.kernels, settings.threads)
        checkpoint = open_checkpoint(Path(path))
        self._sentence = read_sentence_settings(checkpoint)
        self._reader = build_reader(checkpoint, device, on_progress, settings.bits)
        self._pooling = None if self._reader.num_labels else _pooling(self._sentence, self._reader, checkpoint, device)
        self.info = _describe(checkpoint, self._reader, self._pooling, self._limits(settings), device)
        self._before_batch = settings.before_batch
        self._queue = InputQueue()
        # No stream has a gap here.
        self._step_time = StepTime(max_gap_seconds=0.0, chunk_tokens=settings.max_batch_tokens)
        self._live: set[str] = set()

    def submit(self, request: EncodingRequest) -> None:
        """Queue a request. Raises ContextLengthExceeded and ParameterInvalid."""
        _check(request, self.info, self._sentence)
        if request.request_id in self._live:
            raise ParameterInvalid("request_id", f"Request {request.request_id} is already running.")
        self._live.add(request.request_id)
        self._queue.add(request)

    def cancel(self, request_id: str) -> None:
        """Drop a request; unknown ones are ignored. No output of it follows."""
        self._live.discard(request_id)
        self._queue.remove(request_id)

    def cached_tokens(self, tokens: Sequence[int]) -> int:
        """No tokens: a text that has been encoded leaves nothing behind."""
        del tokens
        return 0

    @property
    def has_work(self) -> bool:
        """True while step() has something to compute."""
        return self._queue.num_inputs > 0

    @property
    def num_running(self) -> int:
        """Requests that have been begun."""
        return self._queue.num_begun

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.num_untouched

    @property
    def stats(self) -> EngineStats:
        """The numbers of requests; no keys and values outlive a batch."""
        return EngineStats(self.num_running, self.num_waiting)

    def step(self) -> list[EncodingOutput]:
        """Read one batch, and report what became of its inputs."""
        batch = self._queue.next_batch(self._step_time.budget(0))
        if not batch:
            return []
        try:
            if self._before_batch is not None:
                self._before_batch(batch)
            values = self._timed(batch)
        except Exception:  # noqa: BLE001  # whatever a batch raises costs its inputs, never the embedder
            _log.exception("a batch could not be read")
            outputs = [_failed(queued, _BATCH_FAILED, "StepFailed") for queued in batch]
        else:
            outputs = [self._output(queued, own) for queued, own in zip(batch, values, strict=True)]
        self._forget_finished()
        return outputs

    def close(self) -> None:
        """Nothing of it outlives the process."""

    def encode(self, inputs: Iterable[Sequence[int]]) -> list[list[float]]:
        """Vectors or scores of texts as token ids, in their order."""
        request = EncodingRequest("encode", tuple(TokenInput(tuple(ids)) for ids in inputs))
        results: list[list[float]] = [[]] * len(request.inputs)
        self.submit(request)
        while self.has_work:
            for output in self.step():
                if output.error is not None:
                    raise RuntimeError(output.error)
                results[output.index] = np.frombuffer(output.values, "<f4").tolist()
        return results

    def _timed(self, batch: Sequence[QueuedInput]) -> Values:
        started = monotonic()
        values = self._read(batch)
        self._step_time.observe(0, len(batch) * batch[0].length, monotonic() - started)
        return values

    def _read(self, batch: Sequence[QueuedInput]) -> Values:
        """(batch, size or labels); neither cut nor normalised."""
        inputs = [queued.tokens for queued in batch]
        lengths = [len(each.ids) for each in inputs]
        ids, types = (
            _padded(rows, lengths) for rows in ([each.ids for each in inputs], [each.types for each in inputs])
        )
        hidden = self._reader.read(ids, types, lengths)
        if self._pooling is None:
            result = self._reader.scores(hidden, lengths)
        else:
            result = self._pooling(hidden, lengths, [each.prompt_length for each in inputs])
        return np.array(result.astype(mx.float32))

    def _output(self, queued: QueuedInput, values: Values) -> EncodingOutput:
        request = queued.request
        result = self._score(request, values) if self._pooling is None else self._vector(request, values)
        if not np.isfinite(result).all():
            return _failed(queued, str(NotFinite(request.param, queued.index)), NotFinite.__name__)
        return EncodingOutput(request.request_id, queued.index, result.astype("<f4").tobytes())

    def _vector(self, request: EncodingRequest, values: Values) -> Values:
        values = values[: request.dimensions]
        normalize = self._sentence.normalize if request.normalize is None else request.normalize
        length = float(np.linalg.norm(values.astype(np.float64))) if normalize else 1.0
        return values / np.float32(length) if length else values

    def _score(self, request: EncodingRequest, values: Values) -> Values:
        own = self._sentence.sigmoid
        sigmoid = self.info.num_labels == 1 if own is None else own
        return values if request.raw_scores or not sigmoid else 0.5 * (1 + np.tanh(0.5 * values))

    def _limits(self, settings: EmbedderSettings) -> int:
        limits = (self._reader.max_length, self._sentence.max_length, settings.context_length)
        return min(limit for limit in limits if limit is not None)

    def _forget_finished(self) -> None:
        self._live = {request_id for request_id in self._live if self._queue.holds(request_id)}


def _pooling(settings: SentenceSettings, reader: Reader, checkpoint: Checkpoint, device: Device) -> Pooling:
    if not settings.modes:
        raise CheckpointUnsupported(MODULES_FILE, "no Pooling", "a Pooling module, or no modules at all")
    return Pooling(settings, reader.hidden_size, checkpoint, device)


def _padded(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> mx.array:
    """(rows, longest) with zeros on the right."""
    padded = np.zeros((len(rows), max(lengths)), np.int32)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = ids
    return mx.array(padded)


def _failed(queued: QueuedInput, error: str, kind: str) -> EncodingOutput:
    return EncodingOutput(queued.request.request_id, queued.index, error=error, error_kind=kind)


def _check(request: EncodingRequest, info: ModelInfo, settings: SentenceSettings) -> None:
    dimensions = request.dimensions
    if dimensions is not None and not settings.allows(dimensions, info.embedding_size):
        raise ParameterInvalid("dimensions", f"This model's vectors cannot be cut to {dimensions} dimensions.")
    if not request.inputs:
        raise ParameterInvalid(request.param, f"{request.param} is empty.")
    for each in request.inputs:
        _check_input(each, request.param, info)


def _check_input(tokens: TokenInput, param: str, info: ModelInfo) -> None:
    if not tokens.ids:
        raise ParameterInvalid(param, f"{param} holds an input without a single token.")
    if len(tokens.ids) > info.context_length:
        raise ContextLengthExceeded(len(tokens.ids), info.context_length, param)
    for token_id in tokens.ids:
        if not 0 <= token_id < info.vocab_size:
            raise ParameterInvalid(param, f"Token id {token_id} is outside the vocabulary of {info.vocab_size}.")
    if tokens.types and (len(tokens.types) != len(tokens.ids) or not set(tokens.types) <= {0, 1}):
        raise ParameterInvalid(param, f"{param} holds token types that are not one 0 or 1 per token.")


def _describe(
    checkpoint: Checkpoint, reader: Reader, pooling: Pooling | None, context_length: int, device: Device
) -> ModelInfo:
    kinds = sorted({f"{each.bits}-bit" for each in checkpoint.quantization.values()})
    return ModelInfo(
        model_type=checkpoint.config["model_type"],
        kind="classifier" if pooling is None else "embedder",
        context_length=context_length,
        embedding_size=0 if pooling is None else pooling.size,
        num_labels=reader.num_labels,
        num_layers=_num_layers(checkpoint.config),
        vocab_size=checkpoint.config["vocab_size"],
        weight_bytes=checkpoint.num_bytes,
        quantization="+".join(kinds) or "none",
        device=device.kind,
        dtype=device.dtype_name,
        blas=device.blas,
        kernels=device.kernels,
        advice=device.advice,
    )


def _num_layers(config: Mapping[str, Any]) -> int:
    values = (config.get(key) for key in ("num_hidden_layers", "n_layers", "num_layers", "n_layer"))
    return next((value for value in values if isinstance(value, int)), 0)
