"""The counts and times of /metrics, under the names of vLLM, which dashboards know. Knows nothing of HTTP."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from engine.requests import GenerationRequest, StepOutput
from engine.settings import EngineStats
from server.models.footprint import PrefillRate
from server.models.registry import Registry
from server.models.served_model import ServedModel

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


CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_LABELS = ("model_name", "engine")
_ENGINE = "0"  # a model has one worker

_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
_BETWEEN_TOKENS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
_WHOLE = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_TOKENS = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))
_CHOICES = (1, 2, 5, 10, 20)

# Name, what it is, buckets. Seconds or tokens, one observation per choice unless it says otherwise.
_HISTOGRAMS: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("time_to_first_token_seconds", "Time from the request's arrival to a choice's first token.", _FIRST_TOKEN),
    ("inter_token_latency_seconds", "Time between two tokens of a choice.", _BETWEEN_TOKENS),
    ("time_per_output_token_seconds", "Older name of inter_token_latency_seconds.", _BETWEEN_TOKENS),
    (
        "request_time_per_output_token_seconds",
        "Mean time between two tokens, one observation per choice.",
        _BETWEEN_TOKENS,
    ),
    ("e2e_request_latency_seconds", "Time from the request's arrival to a choice's last token.", _WHOLE),
    ("request_queue_time_seconds", "Time that a choice waited in the engine's queue before its prefill.", _WHOLE),
    ("request_prefill_time_seconds", "Time from the end of the queue to the first token.", _WHOLE),
    ("request_decode_time_seconds", "Time from the first token to the last.", _WHOLE),
    ("request_inference_time_seconds", "Time of prefill and decode together.", _WHOLE),
    ("request_prompt_tokens", "Prompt tokens, cached or computed.", _TOKENS),
    ("request_generation_tokens", "Generated tokens.", _TOKENS),
    ("request_params_max_tokens", "The max_tokens in force, which the context may have lowered.", _TOKENS),
    ("request_params_n", "Choices per prompt, one observation per request.", _CHOICES),
)


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """The counts of one model's requests. Every choice of a prompt counts as a request of its own, as in vLLM.

    histograms: by the name after `vllm:`
    finished: by finish reason: stop, length, abort for a client that left, error
    """

    prompt_tokens: Counter
    generation_tokens: Counter
    finished: dict[str, Counter]
    histograms: dict[str, Histogram]

    def observe(self, **values: float) -> None:
        """Count one value in each histogram."""
        for name, value in values.items():
            self.histograms[name].observe(value)


class Metrics:
    """The counts of all served models, from the server's start; those of a worker begin anew with its process."""

    def __init__(self, registry: Registry) -> None:
        self._collected = CollectorRegistry()
        self._collected.register(_Workers(registry))
        prompt_tokens, generation_tokens = (
            self._counter("prompt_tokens", "Prompt tokens, cached or computed."),
            self._counter("generation_tokens", "Generated tokens."),
        )
        finished = self._counter("request_success", "Choices that have ended.", "finished_reason")
        histograms = {name: self._histogram(name, text, buckets) for name, text, buckets in _HISTOGRAMS}
        self._counters = (prompt_tokens, generation_tokens, finished)
        self._histograms = histograms
        self._models: dict[str, ModelMetrics] = {}
        for model in registry.models:
            self.of(model.name)

    def of(self, model_name: str) -> ModelMetrics:
        """The counts of one served model, which begin when it is first asked for."""
        if model_name not in self._models:
            prompt_tokens, generation_tokens, finished = self._counters
            self._models[model_name] = ModelMetrics(
                prompt_tokens.labels(model_name, _ENGINE),
                generation_tokens.labels(model_name, _ENGINE),
                {reason: finished.labels(model_name, _ENGINE, reason) for reason in _REASONS},
                {name: histogram.labels(model_name, _ENGINE) for name, histogram in self._histograms.items()},
            )
        return self._models[model_name]

    def tokens(self) -> tuple[int, int]:
        """Prompt tokens and generated ones of all models."""
        prompt_tokens, generation_tokens, _ = self._counters
        return _total(prompt_tokens), _total(generation_tokens)

    def text(self) -> bytes:
        """All of it in Prometheus' text format, version 0.0.4."""
        return generate_latest(self._collected)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"vllm:{name}", text, (*_LABELS, *labels), registry=self._collected)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"vllm:{name}", text, _LABELS, buckets=buckets, registry=self._collected)


_REASONS = ("stop", "length", "abort", "error")

# Name, what it is, and the field of the worker's stats.
_GAUGES = (
    ("vllm:num_requests_running", "Requests that hold keys and values.", "num_running"),
    ("vllm:num_requests_waiting", "Requests in the queue.", "num_waiting"),
    ("bramley:kv_cache_bytes", "Memory of the keys and values of running requests.", "kv_bytes"),
    ("bramley:kv_cache_limit_bytes", "Limit of kv_cache_bytes; 0 is no limit.", "kv_limit_bytes"),
    ("bramley:prefix_cache_bytes", "Memory of the prefix cache.", "prefix_bytes"),
    ("bramley:prefix_cache_blocks", "Blocks of the prefix cache in memory.", "prefix_blocks"),
)
_COUNTERS = (
    ("vllm:num_preemptions", "Times that a running request went back to the queue.", "num_preemptions"),
    ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", "queried_tokens"),
    ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", "cached_tokens"),
    ("bramley:prefix_files_damaged", "Damaged files of the prefix cache, which are not read.", "num_damaged"),
)
_NOTHING = EngineStats(num_running=0, num_waiting=0)
_Family = GaugeMetricFamily | CounterMetricFamily


class _Workers(Collector):
    """The workers' own counts, asked for when somebody looks."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        states = [(model, model.supervisor.stats or _NOTHING) for model in self._registry.models]
        for kind, table in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
            for name, text, field in table:
                yield _family(kind, name, text, {model.name: getattr(stats, field) for model, stats in states})
        usage = {model.name: _share(stats) for model, stats in states}
        yield _family(GaugeMetricFamily, "vllm:kv_cache_usage_perc", "The share of the limit in use, 0 to 1.", usage)
        yield _cache_config([model for model, _ in states])


def _total(counter: Counter) -> int:
    samples = [sample for family in counter.collect() for sample in family.samples]
    return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))


def _share(stats: EngineStats) -> float:
    return stats.kv_bytes / stats.kv_limit_bytes if stats.kv_limit_bytes else 0.0


def _family(kind: type[_Family], name: str, text: str, values: dict[str, float]) -> Metric:
    family = kind(name, text, labels=_LABELS)
    for model_name, value in values.items():
        family.add_metric((model_name, _ENGINE), value)
    return family


def _cache_config(models: list[ServedModel]) -> Metric:
    labels = (*_LABELS, "cache_dtype", "enable_prefix_caching")
    family = GaugeMetricFamily("vllm:cache_config_info", "How keys and values are kept.", labels=labels)
    for model in models:
        settings = model.supervisor.engine
        dtype = "auto" if settings.kv_bits is None else f"int{settings.kv_bits}"
        family.add_metric((model.name, _ENGINE, dtype, str(settings.prefix_bytes != 0)), 1)
    return family


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
