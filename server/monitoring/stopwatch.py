"""The times of one HTTP request's choices, taken as tokens come and told to the metrics. Knows no text and no HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

from engine.requests import GenerationRequest, StepOutput
from server.models.prefill_rate import PrefillRate
from server.monitoring.metrics import ModelMetrics

Ending = Literal["stop", "length", "abort", "error"]


@dataclass(slots=True)
class _Lap:
    """One choice. Times are seconds on one clock; first and last mean nothing while num_tokens is 0."""

    request: GenerationRequest
    sent: float
    queued_seconds: float = 0.0
    first: float = 0.0
    last: float = 0.0
    num_tokens: int = 0


class Stopwatch:
    """Measures one HTTP request.

    started: when it arrived, in seconds of time.monotonic
    prefill_rate: learns how long a prefill takes
    """

    def __init__(self, metrics: ModelMetrics, started: float, prefill_rate: PrefillRate) -> None:
        self._metrics = metrics
        self._prefill_rate = prefill_rate
        self._started = started
        self._running: dict[str, _Lap] = {}
        self._first: float | None = None
        self._last = 0.0
        self._num_later = 0

    def send(self, requests: Sequence[GenerationRequest], num_choices: int) -> None:
        """The choices of all prompts go to the worker."""
        now = monotonic()
        self._running = {request.request_id: _Lap(request, now) for request in requests}
        self._metrics.observe(request_params_n=num_choices)

    def take(self, output: StepOutput) -> None:
        """A token has come."""
        lap = self._running.get(output.request_id)
        if lap is None or output.token is None:
            return
        now = self._last = monotonic()
        if lap.num_tokens:
            self._num_later += 1
            gap = now - lap.last
            self._metrics.observe(inter_token_latency_seconds=gap, time_per_output_token_seconds=gap)
        else:
            self._begin(lap, output, now)
        lap.last = now
        lap.num_tokens += 1
        self._metrics.generation_tokens.inc()

    def finish(self, request_id: str, ending: Ending) -> None:
        """A choice has its end; those that already have one are left alone."""
        lap = self._running.pop(request_id, None)
        if lap is None:
            return
        self._metrics.finished[ending].inc()
        if lap.num_tokens:
            self._tell(lap)

    def finish_all(self, ending: Ending) -> None:
        """Nothing more will come."""
        for request_id in list(self._running):
            self.finish(request_id, ending)

    def figures(self) -> dict[str, Any]:
        """For the log: milliseconds to the first token, and tokens per second after it, of all choices together."""
        if self._first is None:
            return {}
        figures: dict[str, Any] = {"ttft_ms": round((self._first - self._started) * 1000)}
        if self._num_later and self._last > self._first:
            figures["tok_s"] = round(self._num_later / (self._last - self._first), 1)
        return figures

    def _begin(self, lap: _Lap, output: StepOutput, now: float) -> None:
        lap.first, lap.queued_seconds = now, output.queued_seconds
        self._first = now if self._first is None else self._first
        self._metrics.prompt_tokens.inc(len(lap.request.prompt_ids))
        found = 0 if output.prefix is None else output.prefix.cached_tokens
        self._prefill_rate.observe(len(lap.request.prompt_ids) - found, max(0.0, now - lap.sent - lap.queued_seconds))
        self._metrics.observe(
            time_to_first_token_seconds=now - self._started,
            request_queue_time_seconds=lap.queued_seconds,
            request_prefill_time_seconds=max(0.0, now - lap.sent - lap.queued_seconds),
            request_prompt_tokens=len(lap.request.prompt_ids),
            request_params_max_tokens=lap.request.sampling.max_tokens,
        )

    def _tell(self, lap: _Lap) -> None:
        decoding = lap.last - lap.first
        self._metrics.observe(
            e2e_request_latency_seconds=lap.last - self._started,
            request_decode_time_seconds=decoding,
            request_inference_time_seconds=max(0.0, lap.last - lap.sent - lap.queued_seconds),
            request_generation_tokens=lap.num_tokens,
        )
        if lap.num_tokens > 1:
            self._metrics.observe(request_time_per_output_token_seconds=decoding / (lap.num_tokens - 1))
