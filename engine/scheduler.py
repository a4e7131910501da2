"""Choose the sequences of the next step. Knows token counts and bytes; knows nothing of arrays, text or HTTP."""

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.cache.kv_budget import KVBudget, capacity_for
from engine.cache.rotations import RotationRule
from engine.requests import GenerationRequest
from engine.sequence import Sequence

_FIRST_CHUNK = 64  # before anything is known of the machine
_SMALLEST_CHUNK = 16
_SHARE_OF_GAP = 0.75  # what is aimed at, so that a slower step than the last still keeps the gap
_ALONE_SECONDS = 0.5  # of a step in which no sequence decodes: arrivals and cancels are looked at between steps


@dataclass(slots=True)
class StepTime:
    """A running estimate of the seconds that a decode step takes, and each prompt token that is prefilled with it.

    max_gap_seconds: between two tokens of a running stream
    chunk_tokens: at most, whatever the time
    """

    max_gap_seconds: float
    chunk_tokens: int
    _decode_seconds: dict[int, float] = field(default_factory=dict)
    _token_seconds: float | None = None

    def observe(self, num_decoded: int, num_prefilled: int, seconds: float) -> None:
        """Learn from a step that decoded sequences and prefilled prompt tokens."""
        if num_prefilled == 0:
            known = self._decode_seconds.get(num_decoded, seconds)
            self._decode_seconds[num_decoded] = 0.8 * known + 0.2 * seconds
        elif num_prefilled >= _SMALLEST_CHUNK:
            cost = max(seconds - self._decode(num_decoded), 1e-7) / num_prefilled
            known = cost if self._token_seconds is None else self._token_seconds
            # A step that took longer than expected weighs more: the next one must not.
            weight = 0.5 if cost > known else 0.2
            self._token_seconds = (1 - weight) * known + weight * cost

    def budget(self, num_decoded: int) -> int:
        """Prompt tokens that a step with this many decoding sequences may prefill."""
        if self._token_seconds is None:
            return min(self.chunk_tokens, _FIRST_CHUNK)
        alone = not num_decoded
        seconds = _ALONE_SECONDS if alone else _SHARE_OF_GAP * self.max_gap_seconds - self._decode(num_decoded)
        return max(_SMALLEST_CHUNK, min(self.chunk_tokens, int(seconds / self._token_seconds)))

    def _decode(self, num_decoded: int) -> float:
        """Seconds of a decode step, from the number of rows nearest to this one."""
        if not num_decoded or not self._decode_seconds:
            return 0.0
        nearest = min(self._decode_seconds, key=lambda known: abs(known - num_decoded))
        return self._decode_seconds[nearest]


_HEADROOM_TOKENS = 256  # of the answer, that a slot has room for from the start


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one step.

    decode: sequences that get one more token
    prefill: sequences whose prompts are prefilled, and the number of tokens of each
    """

    decode: tuple[Sequence, ...] = ()
    prefill: tuple[tuple[Sequence, int], ...] = ()

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """Everything that takes part."""
        return (*self.decode, *(sequence for sequence, _ in self.prefill))

    @property
    def num_prefilled(self) -> int:
        """Prompt tokens of this step."""
        return sum(chunk for _, chunk in self.prefill)


@dataclass(slots=True)
class Scheduler:
    """Run at most `max_rows` sequences, as memory allows; prefill their prompts in chunks that keep streams running.

    endless_tokens: sequences that grow longer go on without their oldest tokens; None skips nothing
    rotation: how rotations depend on the length; None where they do not
    has_source: an encoder takes the whole prompt at once; the decoder's own tokens are apart from it
    begin: called when a sequence is first worked on; returns the number of its tokens that are cached
    pause: called when a sequence has to give its slot back; it is begun again later
    """

    max_rows: int
    step_time: StepTime
    kv_budget: KVBudget
    begin: Callable[[Sequence], int] = lambda _: 0
    pause: Callable[[Sequence], None] = lambda _: None
    has_source: bool = False
    endless_tokens: int | None = None
    rotation: RotationRule | None = None
    num_preemptions: int = 0
    _waiting: list[Sequence] = field(default_factory=list)
    _running: list[Sequence] = field(default_factory=list)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is."""
        sequence.finished = True
        self._give_back(sequence)
        for queue in (self._running, self._waiting):
            if sequence in queue:
                queue.remove(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's slot; it waits, and its tokens are prefilled again."""
        self._stop(sequence)
        self.num_preemptions += 1

    def preempt_all(self) -> None:
        """Preempt whoever runs, as when all slots are rebuilt; a search has its own keys and values and goes on."""
        for sequence in [each for each in self._running if each.prompt_left or not each.searched]:
            self.preempt(sequence)

    def next_step(self, now: float) -> Step:
        """Admit what fits, and choose. Counts the chosen work as done. now: seconds on the engine's clock."""
        self._admit(now)
        decoding = [each for each in self._running if each.forced or (not each.prompt_left and not each.complete)]
        decode = [each for each in self._with_memory(decoding, now) if not each.prompt_left]
        prefill = self._prefill(len(decode), now)
        for sequence in decode:
            sequence.sampled += 1
        return Step(tuple(decode), tuple(prefill))

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Sequences that have a slot."""
        return tuple(self._running)

    @property
    def prefilling(self) -> tuple[Sequence, ...]:
        """Sequences whose prompts have begun to be prefilled."""
        return tuple(each for each in self._running if each.begun and each.prompt_left)

    @property
    def num_running(self) -> int:
        """Sequences that hold keys and values."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a row."""
        return len(self._waiting)

    def longest(self, request: GenerationRequest) -> tuple[int, int]:
        """Tokens that a request may come to hold, and those of its source."""
        prompt, answer = len(request.prompt_ids), request.sampling.max_tokens
        if self.has_source:
            return 1 + answer, prompt
        return min(prompt + answer, self.endless_tokens or prompt + answer), 0

    def needed_bytes(self, request: GenerationRequest) -> int:
        """Bytes that a request may come to hold."""
        copies = request.sampling.num_beams + 1 if request.sampling.num_beams > 1 else 1
        return copies * self.kv_budget.needed_bytes(*self.longest(request))

    def _admit(self, now: float) -> None:
        # A paused sequence's last token may be on its way: the tokens to prefill again are not known before.
        ready = [each for each in self._waiting if each.sampled == len(each.outputs) or each.searched]
        for sequence in sorted(ready, key=lambda each: each.score(now)):
            if self.endless_tokens is not None and sequence.num_tokens >= self.endless_tokens:
                sequence.shorten(self.endless_tokens)
            self._choose_rotation(sequence)
            if len(self._running) >= self.max_rows or not self._take(sequence):
                return
            self._waiting.remove(sequence)
            self._running.append(sequence)
            sequence.to_prefill = sequence.num_tokens

    def _take(self, sequence: Sequence) -> bool:
        """Reserve a slot that is large enough to start; for beams, which are never paused, large enough to end."""
        longest, source = self.longest(sequence.request)
        stored = 1 + len(sequence.outputs) if self.has_source else sequence.num_tokens
        start = longest if sequence.searched else min(longest, stored + _HEADROOM_TOKENS)
        extra = sequence.request.sampling.num_beams if sequence.searched else 0
        if not self.kv_budget.fits(start, source, extra):
            return False
        sequence.held = self.kv_budget.take(start, source)
        self.kv_budget.hold(extra * self.kv_budget.needed_bytes(start, source))
        return True

    def _choose_rotation(self, sequence: Sequence) -> None:
        """Have the tokens that are about to be prefilled choose the rotation, where it depends on the length."""
        if self.rotation is None:
            return
        if sequence.num_tokens < sequence.rotated or self.rotation.restarts(sequence.rotated, sequence.num_tokens):
            sequence.rotated = sequence.num_tokens
        sequence.alone_from = self.rotation.alone_from(sequence.rotated)

    def _outgrows(self, sequence: Sequence) -> bool:
        """True when one more token changes the rotation of all of a sequence's tokens; a search sees to its own."""
        if self.rotation is None or sequence.searched or sequence.held is None:
            return False
        return self.rotation.restarts(sequence.rotated, self._needed(sequence))

    def _stop(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._give_back(sequence)
        self.pause(sequence)
        sequence.begun, sequence.prefilled, sequence.forced = False, 0, False
        self._waiting.append(sequence)

    def _give_back(self, sequence: Sequence) -> None:
        if sequence.held is None:
            return
        self.kv_budget.give_back(*sequence.held)
        if sequence.searched:
            self.kv_budget.hold(-sequence.request.sampling.num_beams * self.kv_budget.needed_bytes(*sequence.held))
        sequence.held = None

    def _with_memory(self, decode: list[Sequence], now: float) -> list[Sequence]:
        """Reserve memory for one more token per sequence. When it runs out, the last in line is paused."""
        if self.endless_tokens is not None:
            for sequence in [each for each in decode if self._needed(each) > self.endless_tokens]:
                self._stop(sequence)
        for sequence in [each for each in decode if self._outgrows(each)]:
            self._stop(sequence)
        for sequence in sorted(decode, key=lambda each: each.score(now)):
            while sequence.held is not None and not self._grown(sequence):
                victims = [each for each in self._running if not each.searched]
                self.preempt(max(victims, key=lambda each: each.score(now)))
        return [each for each in decode if each.held is not None]

    def _grown(self, sequence: Sequence) -> bool:
        assert sequence.held is not None  # asked of running sequences alone
        capacity, source = sequence.held
        needed = self._needed(sequence)
        if needed <= capacity or sequence.searched:
            return True
        if not self.kv_budget.fits(capacity_for(needed), source):
            return False
        sequence.held = self.kv_budget.take(capacity_for(needed), source)
        self.kv_budget.give_back(capacity, source)
        return True

    def _needed(self, sequence: Sequence) -> int:
        """Tokens stored once one more has been decoded."""
        before = 1 if self.has_source else len(sequence.request.prompt_ids) - sequence.skipped
        return before + sequence.sampled

    def _prefill(self, num_decoded: int, now: float) -> list[tuple[Sequence, int]]:
        unfinished = sorted((each for each in self._running if each.prompt_left), key=lambda each: each.score(now))
        unfinished.sort(
            key=lambda each: not each.forced
        )  # these decode already, and nobody's long prompt holds them up
        begun = [each for each in unfinished if each.begun]
        budget = self.step_time.budget(num_decoded) if unfinished else 0
        pieces: list[tuple[Sequence, int]] = []
        for sequence in unfinished:
            # A prefix that another sequence is prefilling is computed once: the cache has it when that one is done.
            waits = not sequence.begun and not sequence.to_score and any(map(sequence.begins_like, begun))
            if budget <= 0 or waits:
                continue
            self._begin(sequence)
            begun.append(sequence)
            chunk = sequence.prompt_left if self.has_source else sequence.piece(budget)
            budget -= chunk
            sequence.prefilled += chunk
            sequence.served += chunk
            sequence.sampled += not sequence.prompt_left and not sequence.complete
            sequence.forced &= sequence.prompt_left > 0
            pieces.append((sequence, chunk))
        return pieces

    def _begin(self, sequence: Sequence) -> None:
        if not sequence.begun:
            sequence.begun = True
            sequence.prefilled = self.begin(sequence)
            sequence.cached_tokens = sequence.cached_tokens or sequence.prefilled
