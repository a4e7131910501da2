"""One choice on its way: tokens become text, text is searched for stop strings and taken apart. Knows no HTTP."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.requests import FinishReason, SampledToken, StepOutput
from engine.text.detokenizer import Detokenizer
from engine.text.stop import StopMatcher, StopStrings
from server.parsing.choose import Parser
from server.parsing.piece import Piece

if TYPE_CHECKING:
    from engine.text.tokenizer import Tokenizer

MIN_LOGPROB = -9999.0  # stands for minus infinity, which JSON lacks


@dataclass(frozen=True, slots=True)
class TextRules:
    """How tokens become the text of an answer.

    stops: built once, for all choices; building them takes a while
    min_tokens: stop strings are not looked for before this many tokens
    kept_ids: special tokens that the parser of the text has to see
    max_calls: an answer ends with its last allowed tool call; None allows any number
    """

    stops: StopStrings = field(default_factory=StopStrings)
    include_stop: bool = False
    skip_special_tokens: bool = True
    min_tokens: int = 0
    kept_ids: frozenset[int] = frozenset()
    max_calls: int | None = None


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """A token as text, its exact bytes, the natural log of its probability, and its id."""

    text: str
    raw: bytes
    logprob: float
    token_id: int


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """The chosen token, the most likely ones, and where in the answer its text begins, in characters."""

    chosen: LikelyToken
    likely: tuple[LikelyToken, ...]
    offset: int
    is_end: bool


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of one choice.

    tokens: those whose text begins in the pieces' content; empty unless logprobs were asked for
    prompt: all prompt tokens but the first, scored, in the choice's first delta; empty unless asked for
    stop: the stop string that ended the choice
    token_ids: all generated since the last delta, end tokens included
    """

    index: int
    pieces: tuple[Piece, ...] = ()
    tokens: tuple[ScoredToken, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | None = None
    prompt: tuple[ScoredToken, ...] = ()
    token_ids: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """Content alone."""
        return "".join(piece.text for piece in self.pieces if piece.field == "content")


class Continuation:
    """The tokens of one choice, turned into deltas.

    parser: takes the text apart; without one all text is content
    num_tokens: all of them, end tokens included; num_reasoning_tokens: those of reasoning, with the marks around it
    """

    def __init__(
        self,
        index: int,
        tokenizer: "Tokenizer",
        prompt_ids: Sequence[int],
        rules: TextRules,
        parser: Parser | None = None,
    ) -> None:
        self.num_tokens = 0
        self.num_reasoning_tokens = 0
        self.cached_tokens = 0
        self._index = index
        self._tokenizer = tokenizer
        self._rules = rules
        self._parser = parser
        self._detokenizer = Detokenizer(
            tokenizer,
            prompt_ids=prompt_ids,
            skip_special_tokens=rules.skip_special_tokens,
            kept_ids=rules.kept_ids,
        )
        self._stops = StopMatcher(rules.stops, include=rules.include_stop)
        self._scored: deque[ScoredToken] = deque()
        self._num_decoded = 0
        self._num_emitted = 0
        self._num_calls = 0
        self._prompt: list[ScoredToken] = []
        self._ids: list[int] = []

    def push(self, output: StepOutput) -> Delta | None:
        """The next delta, or None while text is held back. A delta with a finish reason is the last."""
        self.cached_tokens += output.cached_tokens
        self._prompt += (self._score(token, 0, is_end=False) for token in output.prompt_tokens)
        begin = self._num_decoded
        text = "" if output.token is None else self._decode(output.token, output.finish_reason)
        if output.finish_reason == "stop":  # a character that the limit cuts is left out
            text += self._detokenizer.finish()
        self._num_decoded += len(text)
        if output.token is not None and output.token.logprob is not None:
            self._scored.append(self._score(output.token, begin, is_end=output.finish_reason == "stop"))
        safe = self._search(text, last=output.finish_reason is not None)
        return self._delta(safe, output.finish_reason, num_tokens=output.token is not None)

    def _decode(self, token: SampledToken, finish_reason: FinishReason | None) -> str:
        self.num_tokens += 1
        self._ids.append(token.token_id)
        is_end = finish_reason == "stop"
        return "" if is_end and not self._rules.include_stop else self._detokenizer.push(token.token_id)

    def _search(self, text: str, *, last: bool) -> str:
        if self.num_tokens <= self._rules.min_tokens and not last:
            return text
        safe = self._stops.push(text)
        return safe + self._stops.finish() if last and self._stops.matched is None else safe

    def _delta(self, text: str, finish_reason: FinishReason | None, *, num_tokens: int) -> Delta | None:
        matched = self._stops.matched
        reason: FinishReason | None = finish_reason if matched is None else "stop"
        pieces, is_enough = self._within_calls(self._parse(text, num_tokens, reason))
        reason = "stop" if is_enough else reason
        tokens = self._release(pieces, everything=reason is not None and matched is None)
        prompt = self._take_prompt() if num_tokens or reason else ()
        has_news = pieces or tokens or reason or prompt
        if not has_news:
            return None
        ids, self._ids = tuple(self._ids), []
        return Delta(self._index, pieces, tokens, reason, matched, prompt, ids)

    def _take_prompt(self) -> tuple[ScoredToken, ...]:
        prompt, self._prompt = self._prompt, []
        return tuple(prompt)

    def _parse(self, text: str, num_tokens: int, reason: FinishReason | None) -> list[Piece]:
        if self._parser is None:
            start, self._num_emitted = self._num_emitted, self._num_emitted + len(text)
            return [Piece("content", text, start)] if text else []
        was_reasoning = self._parser.is_reasoning
        pieces = self._parser.push(text)
        if was_reasoning or self._parser.is_reasoning:
            self.num_reasoning_tokens += num_tokens
        return pieces + self._parser.finish(is_cut=reason == "length") if reason else pieces

    def _within_calls(self, pieces: list[Piece]) -> tuple[tuple[Piece, ...], bool]:
        """The pieces up to the first call that is one too many, and whether there was one."""
        for place, piece in enumerate(pieces):
            if piece.field == "call":
                if self._num_calls == self._rules.max_calls:
                    return tuple(pieces[:place]), True
                self._num_calls += 1
        return tuple(pieces), False

    def _release(self, pieces: Sequence[Piece], *, everything: bool) -> tuple[ScoredToken, ...]:
        """Scores leave with the content they belong to; those of all other text never do, but for the end token's."""
        released = []
        for piece in pieces:
            if piece.field == "content":
                self._pop_before(piece.start)
                released += self._pop_before(piece.start + len(piece.text))
        if everything:
            rest = self._pop_before(self._num_decoded + 1)
            released += [token for token in rest if token.is_end or self._parser is None]
        return tuple(released)

    def _pop_before(self, offset: int) -> list[ScoredToken]:
        popped = []
        while self._scored and self._scored[0].offset < offset:
            popped.append(self._scored.popleft())
        return popped

    def _score(self, token: SampledToken, offset: int, *, is_end: bool) -> ScoredToken:
        likely = tuple(self._likely(token_id, logprob) for token_id, logprob in token.top_logprobs)
        return ScoredToken(self._likely(token.token_id, token.logprob or 0.0), likely, offset, is_end)

    def _likely(self, token_id: int, logprob: float) -> LikelyToken:
        raw = self._tokenizer.token_bytes(token_id)
        return LikelyToken(text_of(raw), raw, max(logprob, MIN_LOGPROB), token_id)


def text_of(raw: bytes) -> str:
    """The token's text; a piece of a character is spelled `bytes:\\xe2`, so that different pieces stay different."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
