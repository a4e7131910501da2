"""A loaded model that can take a step. The only caller of mx.async_eval while serving."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from engine.cache.live import Rows, SequenceCache
from engine.model import CausalModel
from engine.sampling.sampler import Sampled, SamplerRow, sample
from engine.scheduler import Sequence, Step
from engine.sequence import GenerationRequest, SampledToken


@dataclass(slots=True)
class Row:
    """What the runner keeps of a sequence: its cache, its sampling state and its newest token.

    token: (1, 1), possibly not evaluated yet; None until the prompt is read
    """

    cache: SequenceCache
    sampler: SamplerRow
    token: mx.array | None = None


@dataclass(frozen=True, slots=True)
class Launched:
    """A step on its way: which sequences get a token, in the order of the sampled rows."""

    step: Step
    sequences: tuple[Sequence, ...]
    sampled: tuple[Sampled, ...]

    def read(self) -> list[tuple[Sequence, SampledToken]]:
        """Wait for the step and return one token per sequence."""
        tokens = [token for sampled in self.sampled for token in _read(sampled)]
        return [(each, _only_asked(token, each)) for each, token in zip(self.sequences, tokens, strict=True)]


class Runner:
    """Runs steps of one model.

    end_ids: the model's own end tokens, which ignore_eos and min_tokens concern
    """

    def __init__(self, model: CausalModel, vocab_size: int, end_ids: frozenset[int]) -> None:
        self._model = model
        self._vocab_size = vocab_size
        self._end_ids = end_ids
        self._rows: dict[Sequence, Row] = {}

    def launch(self, step: Step) -> Launched:
        """Start computing a step without waiting for it. Unread tokens of the step before are its input."""
        sampled: list[Sampled] = []
        sampled += self._decode(step.decode) if step.decode else []
        sampled += self._prefill(step.prefill, step.chunk) if step.prefill else []
        state = [array for each in step.sequences for array in self._state_of(each)]
        mx.async_eval([array for each in sampled for array in each.arrays] + state)  # type: ignore[no-untyped-call]  # mlx's stub lacks it
        getting = step.sequences if not step.prefill or not step.prefill.prompt_left else step.decode
        return Launched(step, getting, tuple(sampled))

    def end_ids_of(self, request: GenerationRequest) -> frozenset[int]:
        """Tokens that end this request."""
        own = frozenset[int]() if request.sampling.ignore_eos else self._end_ids
        return own | set(request.sampling.stop_token_ids)

    def release(self, sequences: Iterable[Sequence]) -> None:
        """Drop the caches of sequences that are done."""
        for sequence in sequences:
            self._rows.pop(sequence, None)

    @property
    def num_rows(self) -> int:
        """Sequences whose caches are held."""
        return len(self._rows)

    def _decode(self, sequences: tuple[Sequence, ...]) -> list[Sampled]:
        rows = [self._rows[each] for each in sequences]
        ids = mx.concatenate([row.token for row in rows if row.token is not None], axis=0)
        return [self._sample(self._forward(ids, rows)[:, 0], rows)]

    def _prefill(self, sequence: Sequence, chunk: int) -> list[Sampled]:
        if sequence not in self._rows:
            self._rows[sequence] = self._new_row(sequence)
        row = self._rows[sequence]
        start = row.cache.length
        ids = mx.array([sequence.request.prompt_ids[start : start + chunk]])
        hidden = self._forward(ids, [row])
        return [] if sequence.prompt_left else [self._sample(hidden[:, -1], [row])]

    def _forward(self, ids: mx.array, rows: list[Row]) -> mx.array:
        view = Rows([row.cache for row in rows])
        hidden = self._model(ids, view)
        view.advance(ids.shape[1])
        return hidden

    def _sample(self, hidden: mx.array, rows: list[Row]) -> Sampled:
        sampled = sample(self._model.logits(hidden), [row.sampler for row in rows])
        for index, row in enumerate(rows):
            row.token = sampled.tokens[index : index + 1, None]
        return sampled

    def _new_row(self, sequence: Sequence) -> Row:
        request = sequence.request
        planned = len(request.prompt_ids) + request.sampling.max_tokens
        sampler = SamplerRow(request.sampling, request.prompt_ids, self.end_ids_of(request), self._vocab_size)
        return Row(SequenceCache(self._model.windows, planned), sampler)

    def _state_of(self, sequence: Sequence) -> list[mx.array]:
        row = self._rows[sequence]
        optional = (row.token, row.sampler.seen, row.sampler.counts)
        return row.cache.arrays + [array for array in optional if array is not None]


def _only_asked(token: SampledToken, sequence: Sequence) -> SampledToken:
    """Cut the list of alternatives, as long as the batch's longest, to what this sequence asked for."""
    asked = sequence.request.sampling.logprobs or 0
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
    return tokens
