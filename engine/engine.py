"""Submit, cancel, step: a model on disk as a synchronous generator of tokens. Knows no text and no HTTP.

One thread owns an engine: MLX's streams belong to the thread that loads the model.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from engine.device import Device, prepare_device
from engine.errors import CheckpointUnsupported, ContextLengthExceeded, ParameterInvalid
from engine.layers.module import EncoderDecoder
from engine.model import CausalModel, Progress, build_model
from engine.runner import Launched, Runner
from engine.sampling.params import SamplingParams
from engine.scheduler import Scheduler, Step
from engine.scheduler import Sequence as Row
from engine.sequence import FinishReason, GenerationRequest, SampledToken, StepOutput

_log = logging.getLogger(__name__)
_UNLIMITED_CONTEXT = 2048  # for models whose positions are relative and have no end of their own
_NOT_WITH_BEAMS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
)
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
    """What is loaded and how it runs. Lengths are tokens.

    kind: "decoder" continues its prompt; "encoder-decoder" reads it apart and writes from a fresh start
    context_length: prompt and answer together; each for itself where an encoder reads the prompt
    """

    model_type: str
    kind: Literal["decoder", "encoder-decoder"]
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

    def room(self, prompt_tokens: int) -> int:
        """Tokens that may be generated after a prompt of this length."""
        return self.context_length - (1 if self.kind == "encoder-decoder" else prompt_tokens)


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
        self.info = _describe(checkpoint, model, settings, device)
        end_ids = frozenset(_token_ids(checkpoint, "eos_token_id"))
        start_ids = _start_ids(checkpoint) if isinstance(model, EncoderDecoder) else ()
        self._runner = Runner(model, self.info.vocab_size, end_ids, start_ids)
        self._scheduler = _scheduler(settings, self.info)
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
        return [output for sequence, new in tokens if not sequence.finished for output in self._outputs(sequence, new)]

    def _outputs(self, sequence: Row, tokens: tuple[SampledToken, ...]) -> list[StepOutput]:
        """One output per token. More than one at once are a whole answer, found with beams."""
        reasons = [self._finish_reason(sequence, token) for token in tokens]
        if sequence.request.sampling.num_beams > 1:
            reasons[-1] = reasons[-1] or "length"
        if reasons[-1] is not None:
            self._finish([sequence])
        name = sequence.request.request_id
        return [StepOutput(name, token, reason) for token, reason in zip(tokens, reasons, strict=True)]

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
    room = info.room(prompt_tokens)
    if not 1 <= request.sampling.max_tokens <= room:
        raise ParameterInvalid(
            "max_tokens",
            f"max_tokens is {request.sampling.max_tokens}, but {prompt_tokens} prompt tokens leave room for "
            f"1 to {room}.",
        )
    _check_beams(request.sampling)
    _check_ids("prompt", request.prompt_ids, info.vocab_size)
    _check_ids("logit_bias", [token_id for token_id, _ in request.sampling.logit_bias], info.vocab_size)


def _check_beams(sampling: SamplingParams) -> None:
    """Beams are ranked, not sampled: what would bend the ranking is refused instead of ignored."""
    plain = SamplingParams(max_tokens=1)
    if sampling.num_beams == 1:
        return
    for param in _NOT_WITH_BEAMS:
        if getattr(sampling, param) != getattr(plain, param) and (param, getattr(sampling, param)) != (
            "temperature",
            0,
        ):
            raise ParameterInvalid(param, f"{param} cannot be combined with num_beams = {sampling.num_beams}.")


def _check_ids(param: str, ids: Iterable[int], vocab_size: int) -> None:
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise ParameterInvalid(param, f"Token id {token_id} is outside the vocabulary of {vocab_size}.")


def _token_ids(checkpoint: Checkpoint, key: str) -> list[int]:
    """Special tokens: generation_config.json is the authority, config.json its fallback."""
    value: Any = checkpoint.generation_config.get(key, checkpoint.config.get(key))
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(each, bool) or not isinstance(each, int) for each in ids):
        raise CheckpointUnsupported(key, value, "a token id or a list of them")
    return ids


def _start_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """What a decoder with its own start begins with; T5's configurations mean the padding token when they name none."""
    ids = _token_ids(checkpoint, "decoder_start_token_id") or _token_ids(checkpoint, "pad_token_id")
    if len(ids) != 1:
        raise CheckpointUnsupported("decoder_start_token_id", None, "one token id")
    return tuple(ids)


def _scheduler(settings: EngineSettings, info: ModelInfo) -> Scheduler:
    if info.kind == "encoder-decoder":  # an encoder reads its prompt at once
        return Scheduler(settings.max_rows, info.context_length, info.context_length)
    return Scheduler(settings.max_rows, settings.prefill_chunk_tokens, settings.shared_prefill_chunk_tokens)


def _context_length(config: Mapping[str, Any]) -> int:
    keys = ("max_position_embeddings", "n_positions", "n_ctx")
    values = [config[key] for key in keys if isinstance(config.get(key), int)]
    return values[0] if values else _UNLIMITED_CONTEXT


def _describe(checkpoint: Checkpoint, model: CausalModel, settings: EngineSettings, device: Device) -> ModelInfo:
    config = checkpoint.config
    own = _context_length(config)
    return ModelInfo(
        model_type=config["model_type"],
        kind="encoder-decoder" if isinstance(model, EncoderDecoder) else "decoder",
        context_length=min(own, settings.context_length or own),
        vocab_size=config["vocab_size"],
        num_layers=len(model.windows),
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
