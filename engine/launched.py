"""A step on its way: its arrays may still be computed, and reading them waits. Knows no model and no slots."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from engine.beam_row import BeamRow
from engine.cache.layout import Content
from engine.cache.prefix import Block
from engine.requests import SampledToken
from engine.sampling.sampler import Sampled
from engine.sampling.scores import Scores
from engine.scheduler import Step
from engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """Scores of the next tokens of a sequence's prompt.

    ends: nothing is left to score, and no token is wanted
    """

    sequence: Sequence
    pieces: tuple[Scores, ...]
    ends: bool

    def read(self) -> tuple[SampledToken, ...]:
        """Wait for them."""
        return tuple(token for piece in self.pieces for token in piece.read())


@dataclass(frozen=True, slots=True)
class Launched:
    """A step on its way.

    sequences: those that get a token, in the order of the sampled rows; searches: those that are searched with beams
    blocks: what the step added to the prefix store
    marks: evaluated when the step's prompts are read
    scored: scores of prompts that were asked for
    forced: tokens that sequences get in this step without sampling, as a grammar leaves no choice of them
    """

    step: Step
    sequences: tuple[Sequence, ...]
    sampled: tuple[Sampled, ...]
    searches: tuple[tuple[Sequence, BeamRow], ...] = ()
    blocks: tuple[Block[Content], ...] = ()
    marks: tuple[mx.array, ...] = ()
    scored: tuple[ScoredPrompt, ...] = ()
    forced: tuple[tuple[Sequence, list[int]], ...] = ()

    @property
    def begins_answers(self) -> bool:
        """True when somebody's first token is in it."""
        return any(not sequence.outputs for sequence in self.sequences)

    def read(self) -> list[tuple[Sequence, tuple[SampledToken, ...]]]:
        """Wait for the step; one token per sampled sequence, and all tokens of a search that is done."""
        mx.eval(*self.marks)
        tokens = [token for sampled in self.sampled for token in _read(sampled)]
        pairs = [(each, (_only_asked(token, each),)) for each, token in zip(self.sequences, tokens, strict=True)]
        return pairs + [(sequence, row.tokens) for sequence, row in self.searches if row.search.done]


def _only_asked(token: SampledToken, sequence: Sequence) -> SampledToken:
    """Cut the list of alternatives, as long as the batch's longest, to what this sequence asked for."""
    sampling = sequence.request.sampling
    if sampling.logprob_ids:
        named = zip(sampling.logprob_ids, (logprob for _, logprob in token.top_logprobs), strict=False)
        return SampledToken(token.token_id, token.logprob, tuple(named))
    asked = sampling.logprobs or 0
    if len(token.top_logprobs) <= asked:
        return token
    return SampledToken(token.token_id, token.logprob, token.top_logprobs[:asked])


def _read(sampled: Sampled) -> list[SampledToken]:
    ids: Any = sampled.tokens.tolist()
    tokens = [SampledToken(token_id) for token_id in ids]
    if sampled.logprobs is None:
        return tokens
    logprobs: Any = sampled.logprobs.tolist()
    top_ids: Any = [[]] * len(logprobs) if sampled.top_ids is None else sampled.top_ids.tolist()
    top_logprobs: Any = [[]] * len(logprobs) if sampled.top_logprobs is None else sampled.top_logprobs.tolist()
    for place, row in enumerate(sampled.logprob_rows):
        top = tuple(zip(top_ids[place], top_logprobs[place], strict=True))
        tokens[row] = SampledToken(ids[row], logprobs[place], top)
    named: Any = [] if sampled.named_logprobs is None else sampled.named_logprobs.tolist()
    for row, values in zip(sampled.named_rows, named, strict=True):
        # Their ids are the sequence's own, which puts them in.
        tokens[row] = SampledToken(ids[row], tokens[row].logprob, tuple((0, value) for value in values))
    return tokens
