"""A loaded model that can take a step. The only caller of mx.async_eval while serving."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from engine.beam_row import BeamRow
from engine.cache.live import Rows, SequenceCache
from engine.layers.module import EncoderDecoder
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

    @property
    def arrays(self) -> list[mx.array]:
        """Everything a step changes."""
        optional = (self.token, self.sampler.seen, self.sampler.counts)
        return self.cache.arrays + [array for array in optional if array is not None]


@dataclass(frozen=True, slots=True)
class Launched:
    """A step on its way: which sequences get a token, in the order of the sampled rows; which searches go on."""

    step: Step
    sequences: tuple[Sequence, ...]
    sampled: tuple[Sampled, ...]
    searches: tuple[tuple[Sequence, BeamRow], ...] = ()

    def read(self) -> list[tuple[Sequence, tuple[SampledToken, ...]]]:
        """Wait for the step; one token per sampled sequence, and all tokens of a search that is done."""
        tokens = [token for sampled in self.sampled for token in _read(sampled)]
        pairs = [(each, (_only_asked(token, each),)) for each, token in zip(self.sequences, tokens, strict=True)]
        return pairs + [(sequence, row.tokens) for sequence, row in self.searches if row.search.done]


class Runner:
    """Runs steps of one model.

    end_ids: the model's own end tokens, which ignore_eos and min_tokens concern
    start_ids: what the decoder of an encoder-decoder model begins with
    """

    def __init__(
        self, model: CausalModel, vocab_size: int, end_ids: frozenset[int], start_ids: tuple[int, ...] = ()
    ) -> None:
        self._model = model
        self._encoder = model if isinstance(model, EncoderDecoder) else None
        self._vocab_size = vocab_size
        self._end_ids = end_ids
        self._start_ids = start_ids
        self._rows: dict[Sequence, Row | BeamRow] = {}

    def launch(self, step: Step) -> Launched:
        """Start computing a step without waiting for it. Unread tokens of the step before are its input."""
        decoded = [each for each in step.decode if isinstance(self._rows[each], Row)]
        sampled = self._decode(decoded)
        searches = [(each, row) for each in step.decode if isinstance(row := self._rows[each], BeamRow)]
        for _, row in searches:
            row.advance(self._model)
        if step.prefill is not None:
            sampled += self._prefill(step.prefill, step.chunk)
            read_out = not step.prefill.prompt_left
            row = self._rows[step.prefill]
            decoded += [step.prefill] if read_out and isinstance(row, Row) else []
            searches += [(step.prefill, row)] if isinstance(row, BeamRow) else []
        arrays = [array for each in sampled for array in each.arrays]
        arrays += [array for each in step.sequences for array in self._rows[each].arrays]
        mx.async_eval(arrays)  # type: ignore[no-untyped-call]  # mlx's stub lacks it
        return Launched(step, tuple(decoded), tuple(sampled), tuple(searches))

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

    def _decode(self, sequences: list[Sequence]) -> list[Sampled]:
        rows = [row for each in sequences if isinstance(row := self._rows[each], Row)]
        if not rows:
            return []
        ids = mx.concatenate([row.token for row in rows if row.token is not None], axis=0)
        return [self._sample(self._forward(ids, rows)[:, 0], rows)]

    def _prefill(self, sequence: Sequence, chunk: int) -> list[Sampled]:
        row = self._rows.get(sequence) or self._new_row(sequence.request)
        self._rows[sequence] = row
        if not isinstance(row, Row):
            return []
        hidden = self._forward(self._prompt_ids(sequence.request, row.cache, chunk), [row])
        if sequence.prompt_left:
            return []
        if sequence.request.sampling.num_beams > 1:
            ends = self.end_ids_of(sequence.request)
            self._rows[sequence] = BeamRow(sequence.request, row.cache, self._model.logits(hidden[:, -1]), ends)
            return []
        return [self._sample(hidden[:, -1], [row])]

    def _prompt_ids(self, request: GenerationRequest, cache: SequenceCache, chunk: int) -> mx.array:
        """The decoder's next input; an encoder-decoder model has its prompt read by the encoder instead."""
        if self._encoder is None:
            return mx.array([request.prompt_ids[cache.length : cache.length + chunk]])
        cache.source = self._encoder.encode(mx.array([request.prompt_ids]))
        return mx.array([self._start_ids])

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

    def _new_row(self, request: GenerationRequest) -> Row:
        planned = len(request.prompt_ids) + request.sampling.max_tokens
        context_ids = self._start_ids or request.prompt_ids
        sampler = SamplerRow(request.sampling, context_ids, self.end_ids_of(request), self._vocab_size)
        return Row(SequenceCache(self._model.windows, planned), sampler)


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
