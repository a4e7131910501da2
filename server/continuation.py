"""One choice on its way: tokens become text, text is searched for stop strings. Knows nothing of HTTP or processes."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.sequence import FinishReason, SampledToken, StepOutput
from engine.text.detokenizer import Detokenizer
from engine.text.stop import StopMatcher

if TYPE_CHECKING:
    from engine.text.tokenizer import Tokenizer

MIN_LOGPROB = -9999.0  # stands for minus infinity, which JSON lacks


@dataclass(frozen=True, slots=True)
class TextRules:
    """How tokens become the text of an answer.

    min_tokens: stop strings are not looked for before this many tokens
    """

    stops: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    min_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """A token as text, its exact bytes, and the natural log of its probability."""

    text: str
    raw: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """The chosen token, the most likely ones, and where in the answer its text begins, in characters."""

    chosen: LikelyToken
    likely: tuple[LikelyToken, ...]
    offset: int
    is_end: bool


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of one choice. `tokens` are those whose text begins in it; empty unless logprobs were asked for."""

    index: int
    text: str
    tokens: tuple[ScoredToken, ...] = ()
    finish_reason: FinishReason | None = None


class Continuation:
    """The tokens of one choice, turned into deltas. `num_tokens` counts all of them, end tokens included."""

    def __init__(self, index: int, tokenizer: "Tokenizer", prompt_ids: Sequence[int], rules: TextRules) -> None:
        self.num_tokens = 0
        self.cached_tokens = 0
        self._index = index
        self._tokenizer = tokenizer
        self._rules = rules
        self._detokenizer = Detokenizer(tokenizer, prompt_ids=prompt_ids, skip_special_tokens=rules.skip_special_tokens)
        self._stops = StopMatcher(rules.stops, include=rules.include_stop)
        self._scored: deque[ScoredToken] = deque()
        self._num_decoded = 0
        self._num_emitted = 0

    def push(self, output: StepOutput) -> Delta | None:
        """The next delta, or None while text is held back. A delta with a finish reason is the last."""
        self.cached_tokens += output.cached_tokens
        begin = self._num_decoded
        text = "" if output.token is None else self._decode(output.token, output.finish_reason)
        if output.finish_reason:
            text += self._detokenizer.finish()
        self._num_decoded += len(text)
        if output.token is not None and output.token.logprob is not None:
            self._scored.append(self._score(output.token, begin, is_end=output.finish_reason == "stop"))
        return self._delta(self._search(text, last=output.finish_reason is not None), output.finish_reason)

    def _decode(self, token: SampledToken, finish_reason: FinishReason | None) -> str:
        self.num_tokens += 1
        is_end = finish_reason == "stop"
        return "" if is_end and not self._rules.include_stop else self._detokenizer.push(token.token_id)

    def _search(self, text: str, *, last: bool) -> str:
        if self.num_tokens <= self._rules.min_tokens and not last:
            return text
        safe = self._stops.push(text)
        return safe + self._stops.finish() if last and self._stops.matched is None else safe

    def _delta(self, text: str, finish_reason: FinishReason | None) -> Delta | None:
        self._num_emitted += len(text)
        matched = self._stops.matched is not None
        tokens = self._release(everything=finish_reason is not None and not matched)
        reason: FinishReason | None = "stop" if matched else finish_reason
        return Delta(self._index, text, tokens, reason) if text or tokens or reason else None

    def _release(self, *, everything: bool) -> tuple[ScoredToken, ...]:
        """Scores leave with the text they belong to; those of text that a stop string cut off never do."""
        released = []
        while self._scored and (everything or self._scored[0].offset < self._num_emitted):
            released.append(self._scored.popleft())
        return tuple(released)

    def _score(self, token: SampledToken, offset: int, *, is_end: bool) -> ScoredToken:
        likely = tuple(self._likely(token_id, logprob) for token_id, logprob in token.top_logprobs)
        return ScoredToken(self._likely(token.token_id, token.logprob or 0.0), likely, offset, is_end)

    def _likely(self, token_id: int, logprob: float) -> LikelyToken:
        raw = self._tokenizer.token_bytes(token_id)
        return LikelyToken(_text_of(raw), raw, max(logprob, MIN_LOGPROB))


def _text_of(raw: bytes) -> str:
    """The token's text; a piece of a character is spelled `bytes:\\xe2`, so that different pieces stay different."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
