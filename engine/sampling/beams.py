"""Beam search over log-probabilities, on the host. Knows tokens and scores; knows no model and no cache.

Follows the rules of transformers' generate(): a finished beam's score is the sum of its log-probabilities divided by
its length to the power of length_penalty; candidates beyond the first `num_beams` only keep the search alive.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.sampling.params import SamplingParams

_IMPOSSIBLE = -1e9


@dataclass(frozen=True, slots=True)
class Beam:
    """Tokens generated so far and the sum of their log-probabilities; when finished, the score they are ranked by."""

    tokens: tuple[int, ...] = ()
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class _Candidate:
    parent: int
    beam: Beam
    ended: bool


class BeamSearch:
    """One sequence's beams. Before the first token there is one, so that beams do not begin alike.

    end_ids: tokens that finish a beam
    """

    def __init__(self, params: SamplingParams, end_ids: AbstractSet[int]) -> None:
        self.running = [Beam(), *[Beam(score=_IMPOSSIBLE)] * (params.num_beams - 1)]
        self.done = False
        self._params = params
        self._end_ids = end_ids
        self._finished: list[Beam] = []
        self._can_improve = True

    def advance(self, log_probabilities: NDArray[np.float32]) -> list[int]:
        """Add a token to every beam.

        log_probabilities: (num_beams, vocab_size), of the token after each running beam
        Returns for each new running beam the number of the old one it continues.
        """
        length = len(self.running[0].tokens) + 1
        candidates = self._candidates(log_probabilities, last=length >= self._params.max_tokens)
        alive = sorted(candidates, key=lambda each: each.beam.score + _IMPOSSIBLE * each.ended, reverse=True)
        alive = alive[: self._params.num_beams]
        self._finish(candidates[: self._params.num_beams], length)
        self.running = [each.beam for each in alive]
        self._can_improve &= self._may_improve(length)
        closed = self._is_full and self._params.early_stopping is True
        self.done = not self._can_improve or closed or all(each.ended for each in candidates)
        return [each.parent for each in alive]

    @property
    def best(self) -> tuple[int, ...]:
        """The tokens of the best finished beam; of the best running one when none has finished."""
        beams = self._finished or self.running
        return max(beams, key=lambda beam: beam.score).tokens

    @property
    def _is_full(self) -> bool:
        return len(self._finished) == self._params.num_beams

    def _candidates(self, log_probabilities: NDArray[np.float32], *, last: bool) -> list[_Candidate]:
        """The best continuations of all beams, best first: enough that `num_beams` of them cannot have ended."""
        scores = log_probabilities + np.array([[beam.score] for beam in self.running], np.float32)
        flat = scores.reshape(-1)
        count = min(max(2, 1 + len(self._end_ids)) * self._params.num_beams, flat.size)
        chosen = np.argpartition(-flat, count - 1)[:count]
        chosen = chosen[np.argsort(-flat[chosen], kind="stable")]
        found = []
        for place in chosen.tolist():
            parent, token = divmod(place, scores.shape[1])
            beam = Beam((*self.running[parent].tokens, token), float(flat[place]))
            found.append(_Candidate(parent, beam, last or token in self._end_ids))
        return found

    def _finish(self, candidates: list[_Candidate], length: int) -> None:
        """Keep the best finished beams; none are added once the search is closed or cannot improve."""
        if (self._is_full and self._params.early_stopping is True) or not self._can_improve:
            return
        ended = [each.beam for each in candidates if each.ended and each.beam.score > _IMPOSSIBLE / 2]
        ranked = [Beam(beam.tokens, beam.score / length**self._params.length_penalty) for beam in ended]
        merged = sorted(self._finished + ranked, key=lambda beam: beam.score, reverse=True)
        self._finished = merged[: self._params.num_beams]

    def _may_improve(self, length: int) -> bool:
        """True when the best running beam could still beat the worst finished one, by the rule early_stopping names."""
        if not self._is_full:
            return True
        longest = self._params.early_stopping == "never" and self._params.length_penalty > 0
        reach = self._params.max_tokens if longest else length
        best = self.running[0].score / reach**self._params.length_penalty
        return bool(best > min(beam.score for beam in self._finished))
