"""A sequence that is searched with beams: their caches, and one more token for each of them."""

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from engine.attention.batch import Batch
from engine.cache.rotations import RotationRule
from engine.cache.slots import Slot
from engine.model import CausalModel
from engine.requests import GenerationRequest, SampledToken
from engine.sampling.beams import BeamSearch
from engine.sampling.sampler import bad_endings, forced_id, ngram_endings


class BeamRow:
    """The beams of one request. A step of it waits for its own result: which beams go on decides the next input.

    slot: the prompt's keys and values, which are copied for every beam
    logits: (1, vocab_size), of the first token
    end_ids: tokens that finish a beam
    rotation: how rotations depend on the length; None where they do not
    """

    def __init__(
        self,
        request: GenerationRequest,
        slot: Slot,
        logits: mx.array,
        end_ids: frozenset[int],
        rotation: RotationRule | None = None,
    ) -> None:
        self.search = BeamSearch(request.sampling, end_ids)
        self._params = request.sampling
        self._prompt_ids = request.prompt_ids
        self._rotation = rotation
        self._end_ids = sorted(end_ids)
        self._slab = slot.slab.copied(slot.index, self._params.num_beams)
        self._slots = [slot.of(self._slab, beam) for beam in range(self._params.num_beams)]
        self._continue(mx.broadcast_to(logits, (self._params.num_beams, logits.shape[-1])))

    def advance(self, model: CausalModel) -> None:
        """Add a token to every beam; nothing once the search is done."""
        if self.search.done:
            return
        if self._outgrown:
            self._restart(model)
            return
        batch = Batch(self._slots)
        hidden = model(mx.array([[beam.tokens[-1]] for beam in self.search.running]), batch)
        batch.advance(1)
        self._continue(model.logits(hidden[:, -1]))

    @property
    def tokens(self) -> tuple[SampledToken, ...]:
        """The best beam's tokens."""
        return tuple(SampledToken(token_id) for token_id in self.search.best)

    @property
    def _outgrown(self) -> bool:
        """True when the next token changes the rotation of all of a beam's tokens."""
        first = self._slots[0]
        return self._rotation is not None and self._rotation.restarts(first.planned_length, first.length + 1)

    def _restart(self, model: CausalModel) -> None:
        """Add a token to every beam, with all of its tokens rotated anew."""
        logits = []
        for slot, beam in zip(self._slots, self.search.running, strict=True):
            tokens = [*self._prompt_ids, *beam.tokens]
            slot.length, slot.planned_length = 0, len(tokens)
            batch = Batch([slot])
            logits.append(model.logits(model(mx.array([tokens]), batch)[:, -1]))
            batch.advance(len(tokens))
        self._continue(mx.concatenate(logits, axis=0))

    def _continue(self, logits: mx.array) -> None:
        logits = logits.astype(mx.float32)
        scores = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        parents = self.search.advance(self._constrained(scores))
        if parents != list(range(len(parents))):
            self._slab.reorder(parents)

    def _constrained(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-probabilities with forced, biased and banned tokens. scores: (num_beams, vocab_size)."""
        params = self._params
        generated = len(self.search.running[0].tokens)
        forced = forced_id(params, generated)
        for token_id, bias in params.logit_bias:
            scores[:, token_id] += bias
        if generated < params.min_tokens:
            scores[:, self._end_ids] = -np.inf
        if params.allowed_token_ids is not None:
            others = np.ones(scores.shape[-1], np.bool_)
            others[list(params.allowed_token_ids)] = False
            scores[:, others] = -np.inf
        if params.bad_sequences:
            for beam, row in zip(self.search.running, scores, strict=True):
                row[bad_endings(beam.tokens, params.bad_sequences)] = -np.inf
        if params.no_repeat_ngram_size:
            for beam, row in zip(self.search.running, scores, strict=True):
                row[ngram_endings(beam.tokens, params.no_repeat_ngram_size)] = -np.inf
        if forced is not None:
            scores[:] = -np.inf
            scores[:, forced] = 0
        return scores
