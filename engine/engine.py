"""Submit, cancel, step: a model on disk as a synchronous generator of tokens. Knows no text and no HTTP.

One thread owns an engine: MLX's streams belong to the thread that loads the model.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from engine.device import Device, prepare_device
from engine.errors import CheckpointUnsupported, ContextLengthExceeded, ParameterInvalid
from engine.model import Progress, build_model
from engine.runner import Launched, Runner
from engine.sampling.params import SamplingParams
from engine.scheduler import Scheduler, Step
from engine.scheduler import Sequence as Row
from engine.sequence import FinishReason, GenerationRequest, SampledToken, StepOutput

_log = logging.getLogger(__name__)
_STEP_FAILED = "The engine failed while computing this request; it was not finished."


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine runs, whatever the model.

    max_rows: sequences that run at once
    prefill_chunk_tokens: prompt tokens read per step while nobody decodes
    shared_prefill_chunk_tokens: the same while other streams are running
    context_length: upper bound on the model's own; None leaves it
    before_launch: called with every step before it is computed; what it raises fails that step (fault injection)
    """

    max_rows: int = 8
    prefill_chunk_tokens: int = 512
    shared_prefill_chunk_tokens: int = 64
    context_length: int | None = None
    before_launch: Callable[[Step], None] | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is loaded and how it runs. Lengths are tokens."""

    model_type: str
    context_length: int
    vocab_size: int
    num_layers: int
    weight_bytes: int
    quantization: str
    device: str
    dtype: str
    blas: str
    kernels: str
    advice: str


class Engine:
    """A model that continues sequences of token ids.

    path: a checkpoint folder or a .gguf file
    on_progress: called while loading with bytes done and bytes in all
    Raises CheckpointError when the model cannot be used.
    """

    def __init__(
        self,
        path: Path | str,
        settings: EngineSettings | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        settings = settings or EngineSettings()
        device = prepare_device()
        checkpoint = open_checkpoint(Path(path))
        model = build_model(checkpoint, device, on_progress)
        self.info = _describe(checkpoint, settings, device)
        end_ids = frozenset(_end_ids(checkpoint))
        self._runner = Runner(model, self.info.vocab_size, end_ids)
        self._scheduler = Scheduler(
            settings.max_rows, settings.prefill_chunk_tokens, settings.shared_prefill_chunk_tokens
        )
        self._before_launch = settings.before_launch
        self._live: dict[str, Row] = {}
        self._pending: Launched | None = None

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. Raises ContextLengthExceeded and ParameterInvalid."""
        _check(request, self.info)
        if request.request_id in self._live:
            raise ParameterInvalid("request_id", f"Request {request.request_id} is already running.")
        sequence = Row(request)
        self._live[request.request_id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, request_id: str) -> None:
        """Drop a request; unknown ones are ignored. No output of it follows."""
        sequence = self._live.get(request_id)
        if sequence is not None:
            self._finish([sequence])

    @property
    def has_work(self) -> bool:
        """True while step() has something to compute or to report."""
        return bool(self._live) or self._pending is not None

    @property
    def num_running(self) -> int:
        """Requests that hold keys and values."""
        return self._scheduler.num_running

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return self._scheduler.num_waiting

    def step(self) -> list[StepOutput]:
        """Launch the next step, and report the tokens of the one before."""
        launched, lost = self._launch(self._scheduler.next_step())
        pending, self._pending = self._pending, launched
        return lost + self._collect(pending)

    def generate(self, prompts: Iterable[Sequence[int]], sampling: SamplingParams | None = None) -> list[list[int]]:
        """Continue prompts of token ids to their ends; returns the generated ids, end tokens included."""
        sampling = sampling or SamplingParams(max_tokens=128, temperature=0)
        results: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            self.submit(GenerationRequest(f"generate-{index}", tuple(prompt), sampling))
            results[f"generate-{index}"] = []
        while self.has_work:
            for output in self.step():
                if output.error is not None:
                    raise RuntimeError(output.error)
                if output.token is not None:
                    results[output.request_id].append(output.token.token_id)
        return list(results.values())

    def _launch(self, step: Step) -> tuple[Launched | None, list[StepOutput]]:
        if not step.sequences:
            return None, []
        try:
            if self._before_launch is not None:
                self._before_launch(step)
            return self._runner.launch(step), []
        except Exception:  # noqa: BLE001  # whatever a step raises costs its rows, never the engine
            _log.exception("a step could not be launched")
            return None, self._lose(step.sequences)

    def _collect(self, pending: Launched | None) -> list[StepOutput]:
        if pending is None:
            return []
        try:
            tokens = pending.read()
        except Exception:  # noqa: BLE001  # as above
            _log.exception("a step failed")
            return self._lose(pending.step.sequences)
        return [self._output(sequence, token) for sequence, token in tokens if not sequence.finished]

    def _output(self, sequence: Row, token: SampledToken) -> StepOutput:
        reason = self._finish_reason(sequence, token)
        if reason is not None:
            self._finish([sequence])
        return StepOutput(sequence.request.request_id, token, reason)

    def _finish_reason(self, sequence: Row, token: SampledToken) -> FinishReason | None:
        sequence.delivered += 1
        if token.token_id in self._runner.end_ids_of(sequence.request):
            return "stop"
        return "length" if sequence.delivered >= sequence.request.sampling.max_tokens else None

    def _lose(self, sequences: Iterable[Row]) -> list[StepOutput]:
        """Fail the rows of a step that raised. Their caches may be half written: nothing of them is kept."""
        lost = [sequence for sequence in sequences if not sequence.finished]
        self._finish(lost)
        return [StepOutput(each.request.request_id, None, error=_STEP_FAILED) for each in lost]

    def _finish(self, sequences: Iterable[Row]) -> None:
        for sequence in sequences:
            self._scheduler.remove(sequence)
            del self._live[sequence.request.request_id]
            self._runner.release([sequence])


def _check(request: GenerationRequest, info: ModelInfo) -> None:
    prompt_tokens = len(request.prompt_ids)
    if not prompt_tokens:
        raise ParameterInvalid("prompt", "The prompt has no tokens.")
    if prompt_tokens >= info.context_length:
        raise ContextLengthExceeded(prompt_tokens, info.context_length)
    if request.sampling.max_tokens < 1 or prompt_tokens + request.sampling.max_tokens > info.context_length:
        raise ParameterInvalid(
            "max_tokens",
            f"max_tokens is {request.sampling.max_tokens}, but {prompt_tokens} prompt tokens leave room for "
            f"1 to {info.context_length - prompt_tokens}.",
        )
    _check_ids("prompt", request.prompt_ids, info.vocab_size)
    _check_ids("logit_bias", [token_id for token_id, _ in request.sampling.logit_bias], info.vocab_size)


def _check_ids(param: str, ids: Iterable[int], vocab_size: int) -> None:
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise ParameterInvalid(param, f"Token id {token_id} is outside the vocabulary of {vocab_size}.")


def _end_ids(checkpoint: Checkpoint) -> list[int]:
    """The end tokens: generation_config.json is the authority, config.json its fallback."""
    value: Any = checkpoint.generation_config.get("eos_token_id", checkpoint.config.get("eos_token_id"))
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(each, bool) or not isinstance(each, int) for each in ids):
        raise CheckpointUnsupported("eos_token_id", value, "a token id or a list of them")
    return ids


def _describe(checkpoint: Checkpoint, settings: EngineSettings, device: Device) -> ModelInfo:
    config = checkpoint.config
    own = int(config.get("max_position_embeddings", 2048))
    return ModelInfo(
        model_type=config["model_type"],
        context_length=min(own, settings.context_length or own),
        vocab_size=config["vocab_size"],
        num_layers=config["num_hidden_layers"],
        weight_bytes=checkpoint.num_bytes,
        quantization=_quantization(checkpoint),
        device=device.kind,
        dtype=device.dtype_name,
        blas=device.blas,
        kernels=device.kernels,
        advice=device.advice,
    )


def _quantization(checkpoint: Checkpoint) -> str:
    kinds = sorted({f"{each.bits}-bit" for each in checkpoint.quantization.values()})
    return "+".join(kinds) or "none"
