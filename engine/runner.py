"""A loaded model that can take a step. The only caller of mx.async_eval while serving."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from engine.attention.batch import Batch
from engine.beam_row import BeamRow
from engine.cache.blocks import cut, put
from engine.cache.layout import Content
from engine.cache.prefix import Block, PrefixStore
from engine.cache.rotations import RotationRule
from engine.cache.slots import Slot, SlotPool
from engine.cache.snapshot_points import SnapshotPoints
from engine.launched import Launched, ScoredPrompt
from engine.layers.module import EncoderDecoder
from engine.model import CausalModel
from engine.native.kernels import Kernels
from engine.requests import GenerationRequest, TokenIds
from engine.sampling.grammar import GrammarRow, find_masks
from engine.sampling.sampler import Sampled, SamplerRow, sample
from engine.sampling.scores import Scores, score_prompt
from engine.scheduler import Step
from engine.sequence import Sequence


@dataclass(slots=True)
class RunningSequence:
    """A sequence that the runner computes: its slot, its sampling state and its newest token.

    slot: None while the sequence is paused
    token: (1, 1), possibly not evaluated yet; None until the prompt is read
    """

    sampler: SamplerRow
    slot: Slot | None = None
    token: mx.array | None = None

    @property
    def held(self) -> Slot:
        """The slot of a row that is in a step."""
        assert self.slot is not None  # the scheduler puts no paused sequence into a step
        return self.slot


@dataclass(slots=True)
class _Work:
    """The sequences and arrays that the launch of one step collects."""

    sequences: list[Sequence] = field(default_factory=list)
    sampled: list[Sampled] = field(default_factory=list)
    searches: list[tuple[Sequence, BeamRow]] = field(default_factory=list)
    blocks: list[Block[Content]] = field(default_factory=list)
    marks: list[mx.array] = field(default_factory=list)
    scored: list[ScoredPrompt] = field(default_factory=list)
    forced: list[tuple[Sequence, list[int]]] = field(default_factory=list)


class Runner:
    """Runs steps of one model.

    queried_tokens, cached_tokens: tokens that were looked up in the prefix cache, and that were there
    slots, prefixes: where keys and values live, and where they outlive their sequences
    end_ids: the model's own end tokens, which ignore_eos and min_tokens concern
    snapshot_points: where prompts are cut so that the state behind them can be kept
    start_ids: what the decoder of an encoder-decoder model begins with
    kernels: the device's, or None
    rotation: how rotations depend on the length; None where they do not
    """

    def __init__(
        self,
        model: CausalModel,
        slots: SlotPool,
        prefixes: PrefixStore[Content],
        vocab_size: int,
        end_ids: frozenset[int],
        snapshot_points: SnapshotPoints,
        start_ids: tuple[int, ...] = (),
        kernels: Kernels | None = None,
        rotation: RotationRule | None = None,
    ) -> None:
        self._model = model
        self._rotation = rotation
        self._encoder = model if isinstance(model, EncoderDecoder) else None
        self._slots = slots
        self._prefixes = prefixes
        self._vocab_size = vocab_size
        self._end_ids = end_ids
        self._snapshot_points = snapshot_points
        self._start_ids = start_ids
        self._kernels = kernels
        self._running: dict[Sequence, RunningSequence | BeamRow] = {}
        self._grammars: dict[Sequence, GrammarRow] = {}
        self._computed: list[Block[Content]] = []
        self.queried_tokens = 0
        self.cached_tokens = 0

    def follow(self, sequence: Sequence, grammar: GrammarRow) -> None:
        """Have a sequence that has not begun follow a grammar."""
        self._grammars[sequence] = grammar

    def learn(self, sequence: Sequence, place: int, token_id: int) -> str | None:
        """Have a sequence's grammar read a token, if it has not. Returns why the sequence cannot go on."""
        row = self._running.get(sequence)
        if not isinstance(row, RunningSequence) or row.sampler.grammar is None:
            return None
        row.sampler.learn(place, token_id)
        return row.sampler.grammar.error

    def begin(self, sequence: Sequence) -> int:
        """Give a sequence its slot, and what the prefix cache has of its tokens. Returns the cached tokens."""
        row = self._running.get(sequence) or self._new_running(sequence)
        self._running[sequence] = row
        assert isinstance(row, RunningSequence)  # beams are never begun again
        assert sequence.held is not None  # the scheduler has reserved a slot
        source_length = len(sequence.request.prompt_ids) if self._encoder is not None else 0
        row.slot = self._slots.take(sequence.held, sequence.rotated, source_length)
        if self._encoder is not None or sequence.to_score:
            return 0
        tokens = sequence.tokens
        match = self._prefixes.find(self._keys(sequence), min(len(tokens) - 1, self._num_shared(sequence)))
        put(match.contents, match.counts, row.slot)
        if match.state is not None:
            row.slot.restore_state(match.state)
        if self._prefixes.needs_state:
            sequence.snapshots = self._snapshot_points.within(tokens, match.num_tokens, match.reach)
        self.queried_tokens += len(tokens)
        self.cached_tokens += match.num_tokens
        return match.num_tokens

    def pause(self, sequence: Sequence) -> None:
        """Take a sequence's slot away. What it needs to go on is kept."""
        row = self._running.get(sequence)
        if isinstance(row, RunningSequence) and row.slot is not None:
            self._slots.release(row.slot)
            row.slot = row.token = None

    def launch(self, step: Step) -> Launched:
        """Start computing a step without waiting for it. Unread tokens of the step before are its input."""
        work = _Work()
        self._decode(step, work)
        for sequence, chunk in step.prefill:
            self._prefill(sequence, chunk, work)
        return Launched(
            step,
            tuple(work.sequences),
            tuple(work.sampled),
            tuple(work.searches),
            tuple(work.blocks),
            tuple(work.marks),
            tuple(work.scored),
            tuple(work.forced),
        )

    def commit(self, launched: Launched) -> None:
        """Count a step as computed: what it stored is real and may be kept on disk."""
        self._computed += launched.blocks
        self.keep_on_disk()

    def keep_on_disk(self) -> None:
        """Hand blocks that are computed, or will be when they are read, to the prefix store's slower tier."""
        for block in self._computed:
            self._prefixes.keep_on_disk(block)
        self._computed = []

    def keep(self, sequence: Sequence, *, last: bool) -> None:
        """Store complete blocks of what a sequence has written; with `last`, also an incomplete one at the end."""
        row = self._running.get(sequence)
        if self._encoder is not None or not isinstance(row, RunningSequence) or row.slot is None:
            return
        known = min(sequence.num_tokens, row.slot.length, self._num_shared(sequence))
        size = self._prefixes.block_tokens
        if last or known % size == 0:
            self._computed += self._store(self._keys(sequence), max(0, known - 2 * size), known, row.slot.tokens)
        if last and known == row.slot.length:
            self._computed += self._store_state(self._keys(sequence)[:known], row.slot)

    def keys(self, tokens: TokenIds, rotated: int) -> list[int]:
        """The tokens by which the prefix cache finds a text whose rotation is chosen by `rotated` tokens."""
        return [*tokens] if self._rotation is None else self._rotation.keys(tokens, rotated)

    def end_ids_of(self, request: GenerationRequest) -> frozenset[int]:
        """Tokens that end this request."""
        own = frozenset[int]() if request.sampling.ignore_eos and not request.sampling.grammar else self._end_ids
        return own | set(request.sampling.stop_token_ids)

    def release(self, sequence: Sequence) -> None:
        """Drop what is held for a sequence that is done."""
        self._grammars.pop(sequence, None)
        row = self._running.pop(sequence, None)
        if isinstance(row, RunningSequence) and row.slot is not None:
            self._slots.release(row.slot)

    def rebuild(self, launched: Launched | None) -> None:
        """Forget every slot, and what a step that failed has stored: it may be half written."""
        self._slots.clear()
        for block in (*self._computed, *(launched.blocks if launched is not None else ())):
            self._prefixes.discard(block)
        self._computed = []

    @property
    def num_running(self) -> int:
        """Sequences with a slot or a sampling state."""
        return len(self._running)

    @property
    def num_slots(self) -> int:
        """Slots in use."""
        return self._slots.num_used

    def _decode(self, step: Step, work: _Work) -> None:
        pairs = [(each, row) for each in step.decode if isinstance(row := self._running[each], RunningSequence)]
        for sequence, row in pairs:
            self._make_room(sequence, row.held)
        # Rows of one slab stand together and in the order of their slots: they attend as one.
        pairs.sort(key=lambda pair: (pair[1].held.slab.capacity, pair[1].held.slab.source_capacity, pair[1].held.index))
        if pairs:
            rows = [row for _, row in pairs]
            ids = mx.concatenate([row.token for row in rows if row.token is not None], axis=0)
            # Evaluated on its own: a slab is written in place only while nothing that is still to be computed reads it.
            mx.async_eval(self._sample(self._forward(ids, rows)[:, 0], pairs, work), self._slots.arrays)  # type: ignore[no-untyped-call]  # mlx's stub lacks it
        for sequence in step.decode:
            if isinstance(row := self._running[sequence], BeamRow):
                row.advance(self._model)
                work.searches.append((sequence, row))

    def _make_room(self, sequence: Sequence, slot: Slot) -> None:
        if sequence.held is not None and sequence.held != (slot.slab.capacity, slot.slab.source_capacity):
            self._slots.move(slot, sequence.held)

    def _prefill(self, sequence: Sequence, chunk: int, work: _Work) -> None:
        row = self._running[sequence]
        assert isinstance(row, RunningSequence)  # beams begin when the prompt is read
        self._make_room(sequence, row.held)
        start = row.held.length
        batch = Batch([row.held])
        hidden = self._model(self._next_ids(sequence, row.held, chunk), batch)
        batch.advance(hidden.shape[1])
        work.marks.append(hidden[:, -1])
        if sequence.request.prompt_logprobs is not None:
            work.scored.append(self._score(sequence, start, hidden[0]))
        if sequence.prompt_left == 0 and sequence.searched:
            self._start_search(sequence, row, hidden, work)
            return
        last = []
        if sequence.prompt_left == 0 and sequence.sampled:
            last = self._sample(hidden[:, -1], [(sequence, row)], work)
        blocks = self._cut_prompt(sequence, start, batch)
        if sequence.prefilled in sequence.snapshots and sequence.prefilled <= self._num_shared(sequence):
            blocks += self._store_state(self._keys(sequence)[: sequence.prefilled], row.held)
        work.blocks += blocks
        mx.async_eval(last, work.marks[-1], self._slots.arrays, _arrays(blocks))  # type: ignore[no-untyped-call]  # mlx's stub lacks it

    def _score(self, sequence: Sequence, start: int, hidden: mx.array) -> ScoredPrompt:
        """Score the tokens that follow those just read. start: where these are; hidden: (chunk, hidden_size)"""
        request = sequence.request
        first, last = max(start + 1, sequence.scored), min(start + 1 + hidden.shape[0], len(request.prompt_ids))
        pieces: list[Scores] = []
        if first < last:
            states, targets = hidden[first - 1 - start : last - 1 - start], request.prompt_ids[first:last]
            count = request.prompt_logprobs or 0
            pieces = score_prompt(self._model.logits, states, targets, count, self._vocab_size, self._kernels)
            sequence.scored = last
        return ScoredPrompt(sequence, tuple(pieces), ends=sequence.prompt_left == 0 and not sequence.sampled)

    def _next_ids(self, sequence: Sequence, slot: Slot, chunk: int) -> mx.array:
        """The decoder's next input; an encoder-decoder model has its prompt read by the encoder first."""
        if self._encoder is None:
            return mx.array([sequence.tokens[slot.length : slot.length + chunk]])
        slot.store_source(self._encoder.encode(mx.array([sequence.request.prompt_ids])))
        return mx.array([[*self._start_ids, *sequence.outputs]])

    def _start_search(self, sequence: Sequence, row: RunningSequence, hidden: mx.array, work: _Work) -> None:
        ends = self.end_ids_of(sequence.request)
        search = BeamRow(sequence.request, row.held, self._model.logits(hidden[:, -1]), ends, self._rotation)
        self._slots.release(row.held)
        self._running[sequence] = search
        work.searches.append((sequence, search))

    def _cut_prompt(self, sequence: Sequence, start: int, batch: Batch) -> list[Block[Content]]:
        """Store the blocks that this piece of the prompt has completed, and the incomplete one at its end."""
        if self._encoder is not None:
            return []
        size = self._prefixes.block_tokens
        is_end = sequence.prompt_left == 0 and not sequence.outputs
        is_due = sequence.prefilled in sequence.snapshots
        end = sequence.prefilled if is_end or is_due else sequence.prefilled - sequence.prefilled % size
        return self._store(self._keys(sequence), start, min(end, self._num_shared(sequence)), batch.tokens)

    def _keys(self, sequence: Sequence) -> list[int]:
        return self.keys(sequence.tokens, sequence.rotated)

    def _num_shared(self, sequence: Sequence) -> int:
        """Tokens whose keys and values another sequence may have, as they were rotated like its own."""
        return sequence.num_tokens if sequence.alone_from is None else min(sequence.num_tokens, sequence.alone_from)

    def _store_state(self, tokens: list[int], slot: Slot) -> list[Block[Content]]:
        """Store a snapshot of the state behind these tokens, where layers keep one and none is stored."""
        if not self._prefixes.limit_bytes or not self._prefixes.lacks_state(tokens):
            return []
        block = self._prefixes.add_state(tokens, slot.state())
        if block is None:
            return []
        mx.async_eval(_arrays([block]))  # type: ignore[no-untyped-call]  # mlx's stub lacks it
        return [block]

    def _store(self, tokens: list[int], start: int, end: int, read: Any) -> list[Block[Content]]:
        if not self._prefixes.limit_bytes:
            return []
        blocks = []
        for first, last in list(self._prefixes.missing(tokens, start, end)):
            content = cut(read(first, last), self._kernels)
            block = self._prefixes.add(tokens[:last], content)
            blocks += [block] if block is not None else []
        mx.async_eval(_arrays(blocks))  # type: ignore[no-untyped-call]  # mlx's stub lacks it
        return blocks

    def _forward(self, ids: mx.array, rows: list[RunningSequence]) -> mx.array:
        batch = Batch([row.held for row in rows])
        hidden = self._model(ids, batch)
        batch.advance(ids.shape[1])
        return hidden

    def _sample(self, hidden: mx.array, pairs: list[tuple[Sequence, RunningSequence]], work: _Work) -> list[mx.array]:
        """Sample a token for every row whose grammar leaves a choice. Returns what is to be evaluated."""
        logits = self._model.logits(hidden)
        if any(row.sampler.grammar is not None for _, row in pairs):
            # Grammars are asked while the logits are computed.
            mx.async_eval(logits, self._slots.arrays)  # type: ignore[no-untyped-call]  # mlx's stub lacks it
            free = [place for place, pair in enumerate(pairs) if not self._take_forced(*pair, work)]
            if len(free) < len(pairs):
                pairs, logits = [pairs[place] for place in free], logits[mx.array(free, mx.int32)]
            find_masks([row.sampler.grammar for _, row in pairs if row.sampler.needs_mask and row.sampler.grammar])
        if not pairs:
            return []
        sampled = sample(logits, [row.sampler for _, row in pairs], self._kernels)
        for index, (_, row) in enumerate(pairs):
            row.token = sampled.tokens[index : index + 1, None]
        work.sequences += [sequence for sequence, _ in pairs]
        work.sampled.append(sampled)
        return sampled.arrays

    def _take_forced(self, sequence: Sequence, row: RunningSequence, work: _Work) -> bool:
        """Have a row's grammar read its newest token, which waits for it. True when the next ones need no sampling."""
        newest = row.sampler.generated - 1
        if row.sampler.grammar is not None and row.sampler.learned == newest and row.token is not None:
            token_id: Any = row.token.item()
            row.sampler.learn(newest, token_id)
        forced = row.sampler.take_forced(only_end=self._encoder is not None)
        if forced:
            row.token = None
            work.forced.append((sequence, forced))
        return bool(forced)

    def _new_running(self, sequence: Sequence) -> RunningSequence:
        request = sequence.request
        context_ids = self._start_ids or request.prompt_ids
        ends, grammar = self.end_ids_of(request), self._grammars.pop(sequence, None)
        return RunningSequence(SamplerRow(request.sampling, context_ids, ends, self._vocab_size, grammar))


def _arrays(blocks: Iterable[Block[Content]]) -> list[mx.array]:
    contents = [block.content for block in blocks if block.content is not None]
    return [stack for content in contents for stack in content.stacks]
