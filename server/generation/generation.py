"""One HTTP request's choices, from prompts of token ids to deltas of text. Knows workers and text; nothing of HTTP."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import Any

from engine.errors import ContextLengthExceeded, EngineError, GrammarInvalid, StepFailed
from engine.requests import FinishReason, GenerationRequest, PrefixNote, StepOutput
from engine.sampling.params import Grammar, SamplingParams
from engine.settings import ENDLESS_TOKENS
from server.errors import ApiError, RequestRefused
from server.generation.continuation import Continuation, Delta, ScoredToken, TextRules
from server.limits import MAX_SENT_GRAMMAR_CHARACTERS
from server.models.served_model import ServedModel
from server.models.text import ModelText
from server.monitoring.metrics import Ending, Stopwatch
from server.parsing.choose import Parser
from server.parsing.piece import Call, Field, Piece, joined
from server.wire.usage import Usage

MANY = 64  # choices


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """The prompts of one request, and how they are to be continued.

    prompts: token ids; each is continued `num_choices` times
    sampling: its max_tokens is an upper bound, and shrinks to what the context leaves; 0 generates nothing
    param: the request's field that holds the prompts, for errors
    priority: lower comes first
    prompt_logprobs: prompts are scored too, with so many of the most likely tokens; None scores none
    parser: makes what takes one choice's text apart; None leaves it whole
    """

    prompts: tuple[tuple[int, ...], ...]
    num_choices: int
    sampling: SamplingParams
    rules: TextRules
    param: str
    priority: int = 0
    prompt_logprobs: int | None = None
    parser: Callable[[], Parser | None] = lambda: None


@dataclass(slots=True)
class Choice:
    """All deltas of one choice together.

    parts: in the order in which they came, neighbours of one field as one
    prompt: all prompt tokens but the first, scored; empty unless asked for
    stop: the stop string that ended it
    token_ids: all generated ones, end tokens included
    """

    parts: list[Piece] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    prompt: tuple[ScoredToken, ...] = ()
    finish_reason: FinishReason = "stop"
    stop: str | None = None
    token_ids: list[int] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All content."""
        return self.of("content")

    def of(self, field: Field) -> str:
        """All text of one field."""
        return "".join(piece.text for piece in self.parts if piece.field == field)

    def calls(self) -> list[Call]:
        """Whole tool calls."""
        calls: list[Call] = []
        for piece in self.parts:
            if piece.field == "call":
                calls.append(Call(piece.text, ""))
            elif piece.field == "arguments":
                calls[-1] = calls[-1]._replace(arguments=calls[-1].arguments + piece.text)
        return calls


class Generation:
    """The choices of one request while they grow. Choice i of prompt p has index p * num_choices + i.

    prefix: how much of the prompt was stored, of the choice that began first; None where nothing is known
    """

    def __init__(self, generation_id: str, model: ServedModel, plan: GenerationPlan, stopwatch: Stopwatch) -> None:
        self.generation_id = generation_id
        self.prefix: PrefixNote | None = None
        self._stopwatch = stopwatch
        self._model = model
        self._plan = plan
        self._continuations: list[Continuation] = []
        self._reads_source = False

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Pieces of all choices as they come; nothing is sent to a worker before the first one is asked for."""
        context_length = await self._model.context_length()
        text = await self._model.text()
        plan = self._plan
        self._reads_source = text.defaults.reads_source
        for prompt in plan.prompts:
            needed = len(prompt) + (plan.sampling.max_tokens > 0)
            if needed > context_length and not self._model.endless:
                raise ContextLengthExceeded(len(prompt), context_length, plan.param)
        begin = partial(self._begin, text, context_length)
        num_choices = len(plan.prompts) * plan.num_choices
        # Hundreds of them take a while to set up; the event loop goes on meanwhile.
        self._continuations, requests = await asyncio.to_thread(begin) if num_choices > MANY else begin()
        if plan.sampling.max_tokens == 0 and plan.prompt_logprobs is None:
            for index in range(num_choices):
                yield Delta(index, finish_reason="length")
            return
        async with aclosing(self._generate(requests)) as deltas:
            async for delta in deltas:
                yield delta

    def usage(self) -> Usage:
        """Tokens so far."""
        prompt_tokens = sum(len(prompt) for prompt in self._plan.prompts)
        completion_tokens = sum(each.num_tokens for each in self._continuations)
        first_choices = self._continuations[:: self._plan.num_choices]
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(each.cached_tokens for each in first_choices)},
            "completion_tokens_details": {
                "reasoning_tokens": sum(each.num_reasoning_tokens for each in self._continuations)
            },
        }

    def progress(self) -> str:
        """How far the first prompt without an answer is prefilled, in words."""
        for index, (prompt, begun) in enumerate(zip(self._all_prompts(), self._continuations, strict=False)):
            if not begun.num_tokens:
                done = self._model.supervisor.prefilled_tokens(self._request_id(index))
                return "queued" if done is None else f"prefill {done}/{len(prompt)} tokens"
        return "generating"

    def times(self) -> dict[str, Any]:
        """For the log: how long the first token took, and how fast the others came."""
        return self._stopwatch.figures()

    def _begin(self, text: ModelText, context_length: int) -> tuple[list[Continuation], list[GenerationRequest]]:
        """Both ends of every choice: what makes text of it, and what the worker is asked."""
        plan, tokenizer = self._plan, text.tokenizer
        prompts = self._all_prompts()
        _check_grammar(plan.sampling.grammar, len(prompts))
        continuations = [
            Continuation(index, tokenizer, () if self._reads_source else prompt, plan.rules, plan.parser())
            for index, prompt in enumerate(prompts)
        ]
        requests = [
            self._request(index, prompt, context_length, tokenizer.eos_token_ids)
            for index, prompt in enumerate(prompts)
        ]
        return continuations, requests

    def _all_prompts(self) -> list[tuple[int, ...]]:
        """The prompt of each choice."""
        return [prompt for prompt in self._plan.prompts for _ in range(self._plan.num_choices)]

    def _request_id(self, index: int) -> str:
        return f"{self.generation_id}-{index}"

    async def _generate(self, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Delta, None]:
        continuations = {request.request_id: each for request, each in zip(requests, self._continuations, strict=True)}
        supervisor = self._model.supervisor
        async with aclosing(self._measured(requests)) as outputs:
            async for output in outputs:
                self.prefix = self.prefix or output.prefix
                delta = continuations[output.request_id].push(output)
                if delta is None:
                    continue
                if delta.finish_reason:
                    self._stopwatch.finish(output.request_id, delta.finish_reason)
                    if not output.finish_reason:  # a stop string, which the worker cannot see
                        supervisor.cancel(output.request_id)
                yield delta

    async def _measured(self, requests: Sequence[GenerationRequest]) -> AsyncGenerator[StepOutput, None]:
        """The outputs of the worker, while the stopwatch runs. Raises StepFailed and RequestRefused."""
        self._stopwatch.send(requests, self._plan.num_choices)
        ending: Ending = "abort"
        try:
            async with aclosing(self._model.supervisor.generate(requests)) as outputs:
                async for output in outputs:
                    if output.error is not None:
                        raise self._failure(output.error_kind, output.error)
                    self._stopwatch.take(output)
                    yield output
        except (ApiError, EngineError):
            ending = "error"
            raise
        finally:
            self._stopwatch.finish_all(ending)

    def _failure(self, kind: str, message: str) -> Exception:
        if not kind:
            return StepFailed(message)
        grammar = self._plan.sampling.grammar
        return RequestRefused(kind, message, grammar.param if grammar is not None else self._plan.param)

    def _request(
        self, index: int, prompt: tuple[int, ...], context_length: int, end_ids: tuple[int, ...]
    ) -> GenerationRequest:
        sampling = self._plan.sampling
        # An encoder reads its prompt apart; the answer shares the context with nothing but its first token.
        room = ENDLESS_TOKENS if self._model.endless else context_length - (1 if self._reads_source else len(prompt))
        # The tokenizer knows ends of a turn that the checkpoint's configuration may leave out.
        own_ends = () if sampling.ignore_eos else end_ids
        sampling = replace(
            sampling,
            stop_token_ids=tuple(dict.fromkeys((*sampling.stop_token_ids, *own_ends))),
            max_tokens=min(sampling.max_tokens, room),
            seed=seed_of_choice(sampling.seed, index % self._plan.num_choices),
        )
        return GenerationRequest(
            self._request_id(index), prompt, sampling, self._plan.priority, self._plan.prompt_logprobs
        )


def _check_grammar(grammar: Grammar | None, num_choices: int) -> None:
    """Each choice carries its grammar to the worker. Raises GrammarInvalid for more than that should take."""
    if grammar is None:
        return
    length = len(grammar.lark) + sum(len(lark) for _, lark in grammar.parts)
    if length * num_choices > MAX_SENT_GRAMMAR_CHARACTERS:
        raise GrammarInvalid(grammar.param, f"it is too long for {num_choices} choices at once")


async def fold(deltas: AsyncIterator[Delta], num_choices: int) -> list[Choice]:
    """The whole of what a stream would have sent."""
    choices = [Choice() for _ in range(num_choices)]
    async for delta in deltas:
        choice = choices[delta.index]
        choice.parts.extend(delta.pieces)
        choice.tokens.extend(delta.tokens)
        choice.token_ids.extend(delta.token_ids)
        choice.prompt = choice.prompt or delta.prompt
        choice.finish_reason = delta.finish_reason or choice.finish_reason
        choice.stop = delta.stop
    for choice in choices:
        choice.parts = joined(choice.parts)
    return choices


def seed_of_choice(seed: int | None, choice: int) -> int | None:
    """The seed of the i-th choice of a prompt: the first has the request's own, the others differ yet repeat."""
    if seed is None or choice == 0:
        return None if seed is None else seed % 2**64
    return int.from_bytes(blake2b(f"{seed}:{choice}".encode(), digest_size=8).digest(), "little")
