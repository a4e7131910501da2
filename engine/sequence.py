"""One request on its way through the engine. Knows token counts; knows nothing of arrays, text or HTTP."""

from dataclasses import dataclass, field

from engine.requests import GenerationRequest, PrefixNote

_AGEING_TOKENS_PER_SECOND = 200  # a second of waiting counts as so many tokens less served
_SINK_TOKENS = 4  # at the beginning of an endless sequence, that stay
_SHARED_TOKENS = 16  # at the beginning of two prompts, from which on one waits for the other
_PRIORITY_TOKENS = 2000  # a step of priority counts as so many tokens served, or ten seconds of waiting


@dataclass(eq=False, slots=True)
class Sequence:
    """One request on its way through the engine. Counts are tokens.

    arrival: seconds on the engine's clock
    rotated: tokens that the prompt's rotation is chosen by, where it depends on the length
    alone_from: the position from which on each token has a rotation of its own, so that it is prefilled by itself
    outputs: tokens read and reported
    to_prefill: tokens whose keys and values must be stored before the next one can be sampled: the prompt, and after a
        pause what was written so far
    prefilled: tokens of to_prefill that are launched
    sampled: tokens launched for sampling, read or not
    scored: prompt tokens that are launched for scoring, or need no score, like the first
    served: prompt tokens computed for it
    held: capacities of the slot it holds, or None
    begun_at: seconds on the engine's clock when it was first worked on; set by the engine
    cached_tokens: prompt tokens that came from the prefix cache instead of being computed
    prefix: where the prompt and the prefix cache differ; set by the engine
    skipped: tokens left out after the first few, in an endless sequence
    forced: the tokens to be prefilled are the newest of the answer, which were not sampled
    snapshots: lengths at which its state is kept, so that a piece of its prompt ends there; set by the runner
    finished: nobody waits for its tokens any more
    """

    request: GenerationRequest
    arrival: float = 0.0
    rotated: int = 0
    alone_from: int | None = None
    outputs: list[int] = field(default_factory=list)
    to_prefill: int = 0
    prefilled: int = 0
    sampled: int = 0
    scored: int = 1
    served: int = 0
    held: tuple[int, int] | None = None
    begun: bool = False
    begun_at: float | None = None
    cached_tokens: int = 0
    prefix: PrefixNote | None = None
    skipped: int = 0
    forced: bool = False
    snapshots: tuple[int, ...] = ()
    finished: bool = False

    def __post_init__(self) -> None:
        self.to_prefill = self.rotated = len(self.request.prompt_ids)

    def force(self, count: int) -> None:
        """Count the newest outputs as given without a step; their keys and values are still to be computed."""
        self.sampled = len(self.outputs)
        if self.held is not None:
            self.to_prefill, self.prefilled, self.forced = self.num_tokens, self.num_tokens - count, True

    @property
    def prompt_left(self) -> int:
        """Tokens that still have to be prefilled before the sequence decodes."""
        return self.to_prefill - self.prefilled

    def piece(self, budget: int) -> int:
        """The number of tokens to prefill next: at most `budget`, and none beyond the next snapshot."""
        stop = next((length for length in self.snapshots if length > self.prefilled), self.to_prefill)
        if self.alone_from is not None:
            stop = min(stop, max(self.alone_from, self.prefilled + 1))
        return min(self.prompt_left, budget, stop - self.prefilled)

    @property
    def complete(self) -> bool:
        """True when every token it may have is sampled or on its way."""
        return self.sampled >= self.request.sampling.max_tokens

    @property
    def to_score(self) -> bool:
        """True while all of the prompt has to be computed, whatever the prefix cache has of it."""
        return self.request.prompt_logprobs is not None and self.scored < len(self.request.prompt_ids)

    @property
    def tokens(self) -> list[int]:
        """Prompt and answer so far, without the skipped tokens."""
        tokens = [*self.request.prompt_ids, *self.outputs]
        return tokens[:_SINK_TOKENS] + tokens[_SINK_TOKENS + self.skipped :] if self.skipped else tokens

    @property
    def num_tokens(self) -> int:
        """The number of `tokens`."""
        return len(self.request.prompt_ids) + len(self.outputs) - self.skipped

    def shorten(self, limit: int) -> None:
        """Skip the oldest tokens after the first few, which attention leans on, so that half of `limit` is free.

        The rest is prefilled again at new positions (Xiao et al. 2023, arXiv:2309.17453, shift the cache instead).
        """
        self.skipped += max(0, self.num_tokens - limit // 2)

    @property
    def searched(self) -> bool:
        """True when it is searched with beams instead of sampled."""
        return self.request.sampling.num_beams > 1

    def begins_like(self, other: "Sequence") -> bool:
        """True when both prompts begin with the same tokens, enough of them to matter."""
        ours, theirs = self.request.prompt_ids, other.request.prompt_ids
        return len(ours) >= _SHARED_TOKENS and ours[:_SHARED_TOKENS] == theirs[:_SHARED_TOKENS]

    def score(self, now: float) -> float:
        """The sequence with the lowest score is served next: least served first, older before younger, by priority."""
        priority = self.request.priority * _PRIORITY_TOKENS
        return self.served + priority - (now - self.arrival) * _AGEING_TOKENS_PER_SECOND
