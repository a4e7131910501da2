"""Choose one token per row from logits, for a whole batch at once. Knows logits and parameters, no text, no caches.

The order is: penalties, bias and banned ids on the raw logits; what grammars allow; temperature; top_k; top_p; min_p.
A row's randomness is one uniform number per token from its own generator, so its neighbours never change what it draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from engine.native.kernels import Kernels
from engine.sampling.grammar import FORCED_TOKENS, GrammarRow
from engine.sampling.params import SamplingParams
from engine.sampling.scores import score

_LAST_RESORT = -1e30  # below every logit, and above minus infinity
_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


class SamplerRow:
    """The sampling state of one sequence.

    context_ids: what the sequence continues: the prompt, or the decoder's start where the prompt has its own encoder
    generated: tokens sampled so far
    seen: (vocab_size,) bool, tokens of prompt or output; counts: (vocab_size,) float32, occurrences in the output.
        Both only where a penalty needs them.
    allowed: (vocab_size,) bool, or None where every token is
    grammar: where the sequence stands in its grammar, after the first `learned` of the generated tokens: the newest one
        may not be read yet
    """

    def __init__(
        self,
        params: SamplingParams,
        context_ids: Sequence[int],
        end_ids: frozenset[int],
        vocab_size: int,
        grammar: GrammarRow | None = None,
    ) -> None:
        self.params = params
        self.grammar = grammar
        self.learned = 0
        self.generated = 0
        self.seen: mx.array | None = None
        self.counts: mx.array | None = None
        self.allowed: mx.array | None = None
        self._end_ids = sorted(end_ids)
        self._num_context = len(context_ids)
        self._history: list[int | mx.array] = list(context_ids)
        self._reads_history = params.no_repeat_ngram_size > 0 or any(len(each) > 1 for each in params.bad_sequences)
        self._generator = np.random.Generator(np.random.Philox(key=_seed(params.seed)))
        if self.penalised:
            seen = np.zeros(vocab_size, np.bool_)
            seen[np.asarray(context_ids)] = True
            self.seen = mx.array(seen)
            self.counts = mx.zeros((vocab_size,))
        if params.allowed_token_ids is not None:
            allowed = np.zeros(vocab_size, np.bool_)
            allowed[list(params.allowed_token_ids)] = True
            self.allowed = mx.array(allowed)

    @property
    def penalised(self) -> bool:
        """True when a penalty is on."""
        params = self.params
        return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0

    @property
    def greedy(self) -> bool:
        """True when the most likely token is taken."""
        return self.params.temperature == 0 or self.params.top_k == 1

    @property
    def floor(self) -> float:
        """The logit of banned tokens. What a grammar demands comes even if it is banned, when nothing else may come."""
        return -float("inf") if self.grammar is None else _LAST_RESORT

    @property
    def needs_mask(self) -> bool:
        """True when a grammar decides what may come next."""
        return self.grammar is not None and forced_id(self.params, self.generated) is None

    def uniform(self) -> float:
        """The row's next random number, in [0, 1)."""
        return min(float(self._generator.random()), _BELOW_ONE)

    def addends(self) -> list[tuple[int, float]]:
        """(token id, addend) pairs for the next logits: bias, end tokens before min_tokens, bad words, n-grams."""
        banned = self._end_ids if self.generated < self.params.min_tokens else []
        history = self._read_history() if self._reads_history else []
        if self.params.no_repeat_ngram_size:
            banned = banned + ngram_endings(history, self.params.no_repeat_ngram_size)
        if self.params.bad_sequences:
            banned = banned + bad_endings(history[self._num_context :], self.params.bad_sequences)
        pairs = [*self.params.logit_bias, *((token_id, -float("inf")) for token_id in banned)]
        return [(token_id, max(value, self.floor)) for token_id, value in pairs]

    def remember(self, token: mx.array) -> None:
        """Count a sampled token, which may not be evaluated yet. token: () integer."""
        self.generated += 1
        if self._reads_history:
            self._history.append(token)
        if self.seen is not None and self.counts is not None:
            self.seen[token] = True
            self.counts[token] = self.counts[token] + 1

    def learn(self, place: int, token_id: int) -> None:
        """Go on in the grammar by the generated token of that place, unless it has been read before.

        A token that the model's settings force is none of the text.
        """
        if self.grammar is None or place != self.learned:
            return
        self.learned += 1
        if forced_id(self.params, place) is None:
            self.grammar.take([token_id])

    def take_forced(self, *, only_end: bool) -> list[int]:
        """Tokens that need not be sampled, now remembered: a grammar's end, or many that it leaves no choice of."""
        if self.grammar is None or self.params.logprobs is not None:
            return []
        if forced_id(self.params, self.generated) is not None:
            return []
        tokens = self.grammar.forced()[: self.params.max_tokens - self.generated]
        if not self.grammar.is_done:
            if only_end or len(tokens) < FORCED_TOKENS:
                return []
            self.grammar.take(tokens)
        for token in tokens:
            if not self.greedy:
                self.uniform()  # as if it had been sampled, so that the same ones are drawn however it comes
            self.remember(mx.array(token, mx.uint32))
        self.learned = self.generated
        return tokens

    def _read_history(self) -> list[int]:
        # Waits for the newest token: what it completes decides what may follow.
        tokens: list[Any] = [each if isinstance(each, int) else each.item() for each in self._history]
        self._history = [*tokens]
        return tokens


@dataclass(frozen=True, slots=True)
class Sampled:
    """Tokens of one step, not yet read from the device.

    tokens: (rows,) uint32
    logprob_rows: which rows asked for log-probabilities; the arrays below have one row for each of them
    logprobs: (asking,) of the chosen tokens
    top_ids, top_logprobs: (asking, k) best first, k the largest asked for
    named_rows: which rows asked for tokens by their ids; named_logprobs: (named, n) of these, n the most asked for
    """

    tokens: mx.array
    logprob_rows: tuple[int, ...] = ()
    logprobs: mx.array | None = None
    top_ids: mx.array | None = None
    top_logprobs: mx.array | None = None
    named_rows: tuple[int, ...] = ()
    named_logprobs: mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        """Everything to evaluate."""
        optional = (self.logprobs, self.top_ids, self.top_logprobs, self.named_logprobs)
        return [self.tokens, *(array for array in optional if array is not None)]


def sample(logits: mx.array, rows: Sequence[SamplerRow], kernels: Kernels | None = None) -> Sampled:
    """One token per row.

    logits: (rows, vocab_size) in any float type
    kernels: the device's, or None
    """
    raw = logits.astype(mx.float32)
    adjusted = _with_masks(_with_addends(_with_penalties(raw, rows), rows), rows)
    chosen = _choose(adjusted, rows) if kernels is None else _choose_natively(kernels, adjusted, rows)
    tokens = _with_forced(chosen, rows)
    for index, row in enumerate(rows):
        row.remember(tokens[index])
    return _with_logprobs(raw, tokens, rows, kernels)


def _with_penalties(logits: mx.array, rows: Sequence[SamplerRow]) -> mx.array:
    if not any(row.penalised for row in rows):
        return logits
    vocab_size = logits.shape[-1]
    seen = mx.stack([mx.zeros((vocab_size,), mx.bool_) if row.seen is None else row.seen for row in rows])
    counts = mx.stack([mx.zeros((vocab_size,)) if row.counts is None else row.counts for row in rows])
    repetition = _column([row.params.repetition_penalty for row in rows])
    presence = _column([row.params.presence_penalty for row in rows])
    frequency = _column([row.params.frequency_penalty for row in rows])
    repeated = mx.where(logits > 0, logits / repetition, logits * repetition)
    logits = mx.where(seen, repeated, logits)
    return logits - presence * (counts > 0) - frequency * counts


def _with_addends(logits: mx.array, rows: Sequence[SamplerRow]) -> mx.array:
    if any(row.allowed is not None for row in rows):
        everything = mx.ones((logits.shape[-1],), mx.bool_)
        allowed = mx.stack([everything if row.allowed is None else row.allowed for row in rows])
        logits = mx.where(allowed, logits, _column([row.floor for row in rows]))
    triples = [(index, *pair) for index, row in enumerate(rows) for pair in row.addends()]
    if not triples:
        return logits
    row_ids, token_ids, values = zip(*triples, strict=True)
    return logits.at[mx.array(row_ids), mx.array(token_ids)].add(mx.array(values, mx.float32))


def _with_masks(logits: mx.array, rows: Sequence[SamplerRow]) -> mx.array:
    """Only what grammars allow. While they are asked, the logits may still be on their way."""
    if all(row.grammar is None for row in rows):
        return logits
    allowed = np.ones(logits.shape, np.bool_)
    for index, row in enumerate(rows):
        if row.grammar is not None and row.needs_mask:
            allowed[index] = row.grammar.allowed()
    return mx.where(mx.array(allowed), logits, -float("inf"))


def _choose(logits: mx.array, rows: Sequence[SamplerRow]) -> mx.array:
    best = mx.argmax(logits, axis=-1).astype(mx.uint32)
    if all(row.greedy for row in rows):
        return best
    temperature = _column([1.0 if row.greedy else row.params.temperature for row in rows])
    probabilities = mx.softmax(logits / temperature, axis=-1, precise=True)
    probabilities = _truncate(probabilities, [row.params for row in rows])
    uniform = _column([0.0 if row.greedy else row.uniform() for row in rows])
    mass = mx.cumsum(probabilities, axis=-1)
    drawn = mx.sum(mass <= uniform * mass[:, -1:], axis=-1).astype(mx.uint32)
    return mx.where(mx.array([row.greedy for row in rows]), best, drawn)


def _with_forced(tokens: mx.array, rows: Sequence[SamplerRow]) -> mx.array:
    forced = [forced_id(row.params, row.generated) for row in rows]
    if all(each is None for each in forced):
        return tokens
    ids = [0 if each is None else each for each in forced]
    return mx.where(mx.array([each is not None for each in forced]), mx.array(ids, mx.uint32), tokens)


def forced_id(params: SamplingParams, generated: int) -> int | None:
    """The token that must come after `generated` others, if any."""
    if generated == params.max_tokens - 1 and params.forced_eos_token_id is not None:
        return params.forced_eos_token_id
    return params.forced_bos_token_id if generated == 0 else None


def ngram_endings(tokens: Sequence[int], size: int) -> list[int]:
    """Tokens that would complete an n-gram of this size which the sequence already has."""
    if len(tokens) < size:
        return []
    ending = tuple(tokens[len(tokens) - size + 1 :])
    starts = range(len(tokens) - size + 1)
    return sorted({tokens[at + size - 1] for at in starts if tuple(tokens[at : at + size - 1]) == ending})


def bad_endings(tokens: Sequence[int], sequences: Sequence[tuple[int, ...]]) -> list[int]:
    """Tokens that would complete one of these sequences."""
    return [each[-1] for each in sequences if tuple(tokens[max(0, len(tokens) + 1 - len(each)) :]) == each[:-1]]


def _choose_natively(kernels: Kernels, logits: mx.array, rows: Sequence[SamplerRow]) -> mx.array:
    """Choose tokens with the kernels, in one pass over the vocabulary."""
    if all(row.greedy for row in rows):
        return kernels.choose(logits)[0]
    temperature = mx.array([0.0 if row.greedy else row.params.temperature for row in rows])
    top_k = mx.array([max(row.params.top_k, 0) for row in rows])
    top_p = mx.array([row.params.top_p for row in rows])
    min_p = mx.array([row.params.min_p for row in rows])
    uniform = mx.array([0.0 if row.greedy else row.uniform() for row in rows])
    return kernels.draw(logits, temperature, top_k, top_p, min_p, uniform)


def _truncate(probabilities: mx.array, params: Sequence[SamplingParams]) -> mx.array:
    """Zero what top_k, top_p and min_p cut away; tokens that tie with the last one kept are kept."""
    thresholds = []
    if any(each.top_k > 0 or each.top_p < 1 for each in params):
        thresholds.append(_rank_threshold(probabilities, params))
    if any(each.min_p > 0 for each in params):
        thresholds.append(_column([each.min_p for each in params]) * mx.max(probabilities, axis=-1, keepdims=True))
    for threshold in thresholds:
        probabilities = mx.where(probabilities >= threshold, probabilities, 0.0)
    return probabilities


def _rank_threshold(probabilities: mx.array, params: Sequence[SamplingParams]) -> mx.array:
    """The smallest probability that top_k and then top_p keep. Returns (rows, 1)."""
    vocab_size = probabilities.shape[-1]
    limits = [min(each.top_k, vocab_size) if each.top_k > 0 else vocab_size for each in params]
    # Where every row has a top_k, the largest of them bounds what has to be sorted.
    candidates = max(limits)
    shortlist = probabilities if candidates == vocab_size else mx.topk(probabilities, candidates, axis=-1)
    ordered = -mx.sort(-shortlist, axis=-1)
    ordered = mx.where(mx.arange(candidates) < _column(limits), ordered, 0.0)
    before = mx.cumsum(ordered, axis=-1, inclusive=False)
    total = mx.sum(ordered, axis=-1, keepdims=True)
    kept = (before < _column([each.top_p for each in params]) * total) & (ordered > 0)
    last = mx.maximum(mx.sum(kept, axis=-1, keepdims=True) - 1, 0)
    return mx.take_along_axis(ordered, last, axis=-1)


def _with_logprobs(raw: mx.array, tokens: mx.array, rows: Sequence[SamplerRow], kernels: Kernels | None) -> Sampled:
    asking = tuple(index for index, row in enumerate(rows) if row.params.logprobs is not None)
    if not asking:
        return Sampled(tokens)
    index = mx.array(asking)
    most = max(rows[each].params.logprobs or 0 for each in asking)
    scores = score(raw[index], tokens[index], most, kernels)
    named = tuple(each for each in asking if rows[each].params.logprob_ids)
    named_logprobs = _named_logprobs(raw, named, rows) if named else None
    return Sampled(tokens, asking, scores.logprobs, scores.top_ids, scores.top_logprobs, named, named_logprobs)


def _named_logprobs(raw: mx.array, named: Sequence[int], rows: Sequence[SamplerRow]) -> mx.array:
    """Log-probabilities of the tokens that some rows ask for; shorter lists are filled up. Returns (named, most)."""
    asked = [rows[each].params.logprob_ids for each in named]
    most = max(map(len, asked))
    ids = mx.array([[*each, *each[:1] * (most - len(each))] for each in asked])
    logits = raw[mx.array(list(named))]
    return mx.take_along_axis(logits, ids, axis=-1) - mx.logsumexp(logits, axis=-1, keepdims=True)


def _column(values: Sequence[float]) -> mx.array:
    return mx.array(list(values))[:, None]


def _seed(seed: int | None) -> int:
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) if seed is None else seed % 2**64
