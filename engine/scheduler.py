"""Choose the sequences of the next step. Knows token counts; knows nothing of arrays, text or HTTP."""

from collections import deque
from dataclasses import dataclass, field

from engine.sequence import GenerationRequest


@dataclass(eq=False, slots=True)
class Sequence:
    """One request on its way through the engine. Counts are tokens.

    prefilled: prompt tokens whose keys and values are stored; set when the step is launched
    sampled: tokens launched for sampling, read or not; delivered: tokens read and reported
    finished: nothing of it is wanted any more
    """

    request: GenerationRequest
    prefilled: int = 0
    sampled: int = 0
    delivered: int = 0
    finished: bool = False

    @property
    def prompt_left(self) -> int:
        """Prompt tokens that still have to be read."""
        return len(self.request.prompt_ids) - self.prefilled

    @property
    def complete(self) -> bool:
        """True when every token it may have is sampled or on its way."""
        return self.sampled >= self.request.sampling.max_tokens


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one step.

    decode: sequences that get one more token
    prefill: the sequence whose prompt is read on, or None; chunk: how many of its tokens
    """

    decode: tuple[Sequence, ...] = ()
    prefill: Sequence | None = None
    chunk: int = 0

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """Everything that takes part."""
        return self.decode if self.prefill is None else (*self.decode, self.prefill)


@dataclass(slots=True)
class Scheduler:
    """First come, first served, with at most `max_rows` sequences running.

    chunk_tokens: prompt tokens of one step while nobody decodes
    shared_chunk_tokens: the same while somebody does, so that running streams are not held up
    """

    max_rows: int
    chunk_tokens: int
    shared_chunk_tokens: int
    _waiting: deque[Sequence] = field(default_factory=deque)
    _running: list[Sequence] = field(default_factory=list)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind those that came before."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is."""
        sequence.finished = True
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def next_step(self) -> Step:
        """Admit what fits, and choose. Counts the chosen work as done."""
        while self._waiting and len(self._running) < self.max_rows:
            self._running.append(self._waiting.popleft())
        decode = tuple(each for each in self._running if not each.prompt_left and not each.complete)
        prefill = next((each for each in self._running if each.prompt_left), None)
        step = Step(decode, prefill, self._chunk(prefill, bool(decode)))
        self._count(step)
        return step

    @property
    def num_running(self) -> int:
        """Sequences that hold keys and values."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a row."""
        return len(self._waiting)

    def _chunk(self, prefill: Sequence | None, shared: bool) -> int:
        if prefill is None:
            return 0
        return min(prefill.prompt_left, self.shared_chunk_tokens if shared else self.chunk_tokens)

    def _count(self, step: Step) -> None:
        for sequence in step.decode:
            sequence.sampled += 1
        if step.prefill is not None:
            step.prefill.prefilled += step.chunk
            step.prefill.sampled += not step.prefill.prompt_left
