"""Submit, cancel, step: a model on disk as a synchronous generator of tokens. Knows no text and no HTTP.

One thread owns an engine: MLX's streams belong to the thread that loads the model.
"""

from engine.device import prepare_device  # isort: skip  # first: loads the BLAS before mlx

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from time import monotonic

from engine.admission import check_memory, check_request
from engine.cache.kv_budget import KVBudget
from engine.cache.layout import layout_for
from engine.cache.slots import SlotPool
from engine.cache.snapshot_points import SnapshotPoints, interval_for
from engine.checkpoint.checkpoint import open_checkpoint
from engine.describe import describe, end_ids, kv_bytes_of, prefix_store, start_ids, weight_bytes_of
from engine.errors import GrammarInvalid, ParameterInvalid
from engine.footprint import measure
from engine.launched import Launched, ScoredPrompt
from engine.layers.module import EncoderDecoder
from engine.layers.rope import rotation_rule
from engine.model import OnProgress, build_model
from engine.requests import FinishReason, GenerationRequest, PrefixNote, SampledToken, StepOutput, TokenIds
from engine.runner import Runner
from engine.sampling.grammar import GrammarCompiler, GrammarRow
from engine.sampling.params import Grammar, SamplingParams
from engine.scheduler import Scheduler, Step, StepTime
from engine.sequence import Sequence
from engine.settings import EngineSettings, EngineStats
from engine.text.load import load_tokenizer

_log = logging.getLogger(__name__)
_STUCK = "The answer cannot go on as its grammar wants: {}."
_STEP_FAILED = "The engine failed while computing this request; it was not finished."


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
        on_progress: OnProgress | None = None,
    ) -> None:
        settings = settings or EngineSettings()
        device = prepare_device(settings.kernels, settings.threads)
        checkpoint = open_checkpoint(Path(path))
        model = build_model(checkpoint, device, on_progress, settings.bits)
        ends = end_ids(checkpoint)
        starts = start_ids(checkpoint) if isinstance(model, EncoderDecoder) else ()
        layout = layout_for(settings.kv_bits)
        weight_bytes = weight_bytes_of(settings, checkpoint, model)
        token_bytes = measure(model, layout)
        self._kv_budget = KVBudget(token_bytes, kv_bytes_of(settings, weight_bytes))
        self._prefixes = prefix_store(settings, checkpoint, model, weight_bytes)
        self.info = describe(checkpoint, model, settings, device, self._kv_budget)
        slots = SlotPool(model.cache, layout, self._kv_budget, device.native)
        points, rotation = SnapshotPoints(ends, interval_for(token_bytes)), rotation_rule(model)
        self._runner = Runner(
            model, slots, self._prefixes, self.info.vocab_size, ends, points, starts, device.native, rotation
        )
        self._grammars = GrammarCompiler(lambda: load_tokenizer(checkpoint), self.info.vocab_size, ends)
        self._step_time = StepTime(settings.max_gap_ms / 1000, settings.prefill_chunk_tokens)
        self._scheduler = Scheduler(
            settings.max_rows,
            self._step_time,
            self._kv_budget,
            self._begin,
            self._runner.pause,
            has_source=bool(starts),
            endless_tokens=self.info.context_length if self.info.endless else None,
            rotation=rotation,
        )
        self._read_at, self._busy = monotonic(), False
        self._before_launch = settings.before_launch
        self._live: dict[str, Sequence] = {}
        self._pending: Launched | None = None

    def compile(self, grammar: Grammar) -> GrammarRow:
        """A grammar's beginning, for submit(). Takes a while when it is new, and may be done on any thread.

        Raises GrammarInvalid, and ParameterInvalid where the model cannot follow any.
        """
        return self._grammars.begin(grammar)

    def submit(self, request: GenerationRequest, grammar: GrammarRow | None = None) -> None:
        """Queue a request; its grammar is compiled here unless it already is.

        Raises ContextLengthExceeded, GrammarInvalid and ParameterInvalid.
        """
        check_request(request, self.info, self._runner.end_ids_of(request))
        check_memory(self._scheduler.needed_bytes(request), self._kv_budget.limit_bytes)
        if request.request_id in self._live:
            raise ParameterInvalid("request_id", f"Request {request.request_id} is already running.")
        if request.sampling.grammar is not None:
            grammar = grammar or self.compile(request.sampling.grammar)
        sequence = Sequence(request, monotonic())
        if grammar is not None:
            self._runner.follow(sequence, grammar)
        self._live[request.request_id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, request_id: str) -> None:
        """Drop a request; unknown ones are ignored. No output of it follows."""
        sequence = self._live.get(request_id)
        if sequence is not None:
            self._finish([sequence])

    def cached_tokens(self, tokens: TokenIds) -> int:
        """Tokens of a prompt that the prefix cache has; changes nothing."""
        return self._prefixes.cached_tokens(self._runner.keys(tokens, len(tokens)), len(tokens) - 1)

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

    @property
    def stats(self) -> EngineStats:
        """The engine's numbers of requests, of bytes and of cached tokens."""
        return EngineStats(
            num_running=self.num_running,
            num_waiting=self.num_waiting,
            kv_bytes=self._kv_budget.num_bytes,
            kv_limit_bytes=self._kv_budget.limit_bytes or 0,
            prefix_bytes=self._prefixes.num_bytes,
            prefix_blocks=self._prefixes.num_blocks,
            queried_tokens=self._runner.queried_tokens,
            cached_tokens=self._runner.cached_tokens,
            num_preemptions=self._scheduler.num_preemptions,
            num_damaged=self._prefixes.num_damaged,
            prefilled={each.request.request_id: each.prefilled for each in self._scheduler.prefilling},
        )

    def close(self) -> None:
        """Write what is meant for the disk. The engine is not used again."""
        self._prefixes.close()

    def step(self) -> list[StepOutput]:
        """Launch the next step, and report the tokens of the one before.

        First tokens are reported before anything else is launched: on a CPU, launching may take as long as computing.
        """
        pending = self._pending
        if pending is not None and pending.begins_answers:
            self._pending = None
            return self._collect(pending)
        self._pending, lost = self._launch()
        outputs = lost + self._collect(pending) + self._give_forced(self._pending)
        if not self.has_work:
            self._runner.keep_on_disk()  # the ends of the last answers, which no further step would keep
        return outputs

    def generate(self, prompts: Iterable[TokenIds], sampling: SamplingParams | None = None) -> list[list[int]]:
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

    def _launch(self) -> tuple[Launched | None, list[StepOutput]]:
        step = Step()
        try:
            step = self._scheduler.next_step(monotonic())
            if self._before_launch is not None and step.sequences:
                self._before_launch(step)
            return (self._runner.launch(step) if step.sequences else None), []
        except Exception:  # noqa: BLE001  # whatever a step raises costs its rows, never the engine
            _log.exception("a step could not be launched")
            return None, self._lose(step.sequences or self._scheduler.running, None)

    def _collect(self, pending: Launched | None) -> list[StepOutput]:
        if pending is None:
            return []
        try:
            tokens = pending.read()
            scores = [(scored, scored.read()) for scored in pending.scored]
        except Exception:  # noqa: BLE001  # as above
            _log.exception("a step failed")
            return self._lose(pending.step.sequences, pending)
        self._observe(pending.step)
        self._runner.commit(pending)
        outputs = [self._scored_output(*each) for each in scores if not each[0].sequence.finished]
        return outputs + [
            output for sequence, new in tokens if not sequence.finished for output in self._outputs(sequence, new)
        ]

    def _observe(self, step: Step) -> None:
        """Learn what the step took. Steps follow one another without a pause as long as there is work."""
        now = monotonic()
        if self._busy:
            self._step_time.observe(len(step.decode), step.num_prefilled, now - self._read_at)
        self._read_at, self._busy = now, self.has_work

    def _outputs(self, sequence: Sequence, tokens: tuple[SampledToken, ...]) -> list[StepOutput]:
        """One output per token. More than one at once were forced by a grammar, or are a whole answer of beams."""
        first, place = not sequence.outputs, len(sequence.outputs)
        if (error := self._runner.learn(sequence, place, tokens[0].token_id)) is not None:
            self._finish([sequence])
            return [
                StepOutput(
                    sequence.request.request_id, None, error=_STUCK.format(error), error_kind=GrammarInvalid.__name__
                )
            ]
        reasons = [self._finish_reason(sequence, token) for token in tokens]
        if sequence.searched:
            reasons[-1] = reasons[-1] or "length"
        self._runner.keep(sequence, last=reasons[-1] is not None)
        if reasons[-1] is not None:
            self._finish([sequence])
        name = sequence.request.request_id
        outputs = [StepOutput(name, token, reason) for token, reason in zip(tokens, reasons, strict=True)]
        return [_first_output(outputs[0], sequence), *outputs[1:]] if first else outputs

    def _give_forced(self, launched: Launched | None) -> list[StepOutput]:
        """Report tokens that a grammar leaves no choice of. They follow those of the step before."""
        outputs: list[StepOutput] = []
        for sequence, forced in launched.forced if launched is not None else ():
            if sequence.finished:
                continue
            ends = self._runner.end_ids_of(sequence.request)
            count = next((place + 1 for place, token_id in enumerate(forced) if token_id in ends), len(forced))
            outputs += self._outputs(sequence, tuple(map(SampledToken, forced[:count])))
            sequence.force(count)
        return outputs

    def _scored_output(self, scored: ScoredPrompt, tokens: tuple[SampledToken, ...]) -> StepOutput:
        """Scores of a prompt; the last of them end a request that wants nothing else."""
        sequence = scored.sequence
        output = StepOutput(sequence.request.request_id, None, prompt_tokens=tokens)
        if not scored.ends:
            return output
        self._finish([sequence])
        return _first_output(replace(output, finish_reason="length"), sequence)

    def _begin(self, sequence: Sequence) -> int:
        """Have the runner begin a sequence; the first time, note when that was and how much of its prompt is cached."""
        again, now, is_scored = sequence.begun_at is not None, monotonic(), sequence.to_score
        cached = self._runner.begin(sequence)
        if not again:
            sequence.begun_at, sequence.prefix = now, self._prefix_note(sequence, cached, is_scored=is_scored)
        return cached

    def _prefix_note(self, sequence: Sequence, cached: int, *, is_scored: bool) -> PrefixNote | None:
        if self.info.kind == "encoder-decoder" or not self._prefixes.limit_bytes:
            return None
        tokens = sequence.tokens
        most = len(tokens) - 1
        if cached >= most or is_scored:
            return PrefixNote(cached)
        match = self._prefixes.find(self._runner.keys(tokens, sequence.rotated), most)
        is_token = match.stored_token is not None and match.stored_token < self.info.vocab_size
        stored_token = match.stored_token if is_token and match.num_tokens == cached else None
        return PrefixNote(cached, stored_token, tokens[cached])

    def _finish_reason(self, sequence: Sequence, token: SampledToken) -> FinishReason | None:
        sequence.outputs.append(token.token_id)
        if token.token_id in self._runner.end_ids_of(sequence.request):
            return "stop"
        return "length" if len(sequence.outputs) >= sequence.request.sampling.max_tokens else None

    def _lose(self, sequences: Iterable[Sequence], launched: Launched | None) -> list[StepOutput]:
        """Fail the rows of a step that raised. Slots may be half written: the other rows are read again."""
        lost = [sequence for sequence in sequences if not sequence.finished]
        self._finish(lost)
        self._runner.rebuild(launched)
        self._scheduler.preempt_all()
        return [StepOutput(each.request.request_id, None, error=_STEP_FAILED) for each in lost]

    def _finish(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self._scheduler.remove(sequence)
            del self._live[sequence.request.request_id]
            self._runner.release(sequence)


def _first_output(output: StepOutput, sequence: Sequence) -> StepOutput:
    queued_seconds = 0.0 if sequence.begun_at is None else sequence.begun_at - sequence.arrival
    return replace(output, cached_tokens=sequence.cached_tokens, queued_seconds=queued_seconds, prefix=sequence.prefix)
