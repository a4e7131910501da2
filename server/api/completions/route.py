"""POST /completions: prompts of text or ids, continued. Knows the shape of the answer, nothing of workers."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from time import time
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.errors import StepFailed
from engine.text.fill_in import fill_in_ends
from server.api.completions.logprobs import TokenLists, joined, prompt_logprobs
from server.api.completions.prompt import EncodedPrompt, encode_prompts
from server.api.completions.schemas import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from server.api.shared.chunks import ChunkedReply
from server.api.shared.sampling import sampling_params, text_rules
from server.api.shared.stream import respond, stopwatch
from server.errors import UnsupportedParameter
from server.generation.continuation import Delta, ScoredToken
from server.generation.generation import Choice, Generation, Plan
from server.generation.reply_grammar import plain_grammar
from server.generation.structure import structure_of
from server.http.client_left import unless_client_leaves
from server.http.large_bodies import LargeBodyRoute
from server.http.openapi import STREAMED
from server.models.registry import WRITING_KINDS, ModelText, Registry
from server.version import FINGERPRINT
from server.wire.usage import Usage

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/completions", response_model=Completion, responses=STREAMED)
async def create_completion(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several prompts."""
    registry: Registry = request.app.state.registry
    model = registry.find(body.model)
    request.state.record["model"] = model.name
    info = await unless_client_leaves(request.receive, model.expect(*WRITING_KINDS))
    if body.scored_rivals is not None and not info.get("scores_prompts"):
        param = "prompt_logprobs" if body.prompt_logprobs is not None else "logprobs"
        raise UnsupportedParameter(param, "this model cannot score a prompt")
    text = await model.text()
    prompts = await asyncio.to_thread(encode_prompts, text, body, await model.context_length())
    plan = await asyncio.to_thread(_plan, text, body, tuple(prompt.ids for prompt in prompts))
    reply = CompletionReply(body, body.model or model.name, prompts)
    generation = Generation(reply.completion_id, model, plan, stopwatch(request, model))
    return await respond(request, generation, reply, stream=body.stream)


def _plan(text: ModelText, body: CompletionRequest, prompts: tuple[tuple[int, ...], ...]) -> Plan:
    # Choices are judged by their scores, so these are needed even if nobody reads them.
    logprobs = 0 if body.logprobs is None and body.num_tries > body.n else body.logprobs
    grammar = plain_grammar(text, structure_of(body))
    sampling = sampling_params(body, text, max_tokens=_max_tokens(text, body), logprobs=logprobs, grammar=grammar)
    if body.suffix:
        ends = (*sampling.stop_token_ids, *fill_in_ends(text.tokenizer))
        sampling = replace(sampling, stop_token_ids=tuple(dict.fromkeys(ends)))
    return Plan(
        prompts=prompts,
        num_choices=body.num_tries,
        sampling=sampling,
        rules=text_rules(body),
        param="prompt",
        priority=body.priority,
        prompt_logprobs=body.scored_rivals,
    )


def _max_tokens(text: ModelText, body: CompletionRequest) -> int | None:
    """The request's; where it says nothing, as many as a model that reads a source is made for, else the API's 16."""
    unset = "max_tokens" not in body.model_fields_set
    return text.defaults.max_new_tokens if unset and text.defaults.reads_source else body.max_tokens


class CompletionReply(ChunkedReply):
    """Completions and their chunks, which have the same shape."""

    def __init__(self, body: CompletionRequest, model_name: str, prompts: Sequence[EncodedPrompt]) -> None:
        super().__init__(body.stream_options)
        self.completion_id = f"cmpl-{uuid4().hex}"
        self.num_choices = len(body.prompt) * body.num_tries
        self._body = body
        self._prompts = prompts
        self._lists = TokenLists(body.logprobs or 0, by_id=body.return_tokens_as_token_ids)
        self._model_name = model_name
        self._created = int(time())
        self._begun: set[int] = set()

    def chunks(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """One chunk per delta; the first of a choice begins with the echoed prompt."""
        begins = delta.index not in self._begun
        self._begun.add(delta.index)
        prompt = self._prompts[delta.index // self._body.num_tries]
        choice = self._choice(delta.index, delta, prompt, begins=begins)
        yield dict(self._answer([choice]))

    def usage_chunk(self, usage: Usage) -> Mapping[str, Any]:
        """A chunk without choices."""
        return {**self._answer([]), "usage": usage}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Mapping[str, Any]:
        """All choices at once; of several tries at a prompt, the likeliest."""
        tries, wanted = self._body.num_tries, self._body.n
        answered: list[CompletionChoice] = []
        for number, prompt in enumerate(self._prompts):
            for choice in likeliest(choices[number * tries : (number + 1) * tries], wanted):
                answered.append(self._choice(len(answered), choice, prompt, begins=True))
        return {**self._answer(answered), "usage": usage}

    def _answer(self, choices: list[CompletionChoice]) -> Completion:
        return {
            "id": self.completion_id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }

    def _choice(self, index: int, part: Delta | Choice, prompt: EncodedPrompt, *, begins: bool) -> CompletionChoice:
        """A choice, or a piece of one; what is about the prompt comes where it begins."""
        body = self._body
        choice: CompletionChoice = {
            "index": index,
            "text": prompt.echo.text + part.text if begins else part.text,
            "logprobs": self._logprobs(prompt, part.prompt, part.tokens, begins=begins),
            "finish_reason": part.finish_reason,
        }
        if begins and body.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(part.prompt, body.prompt_logprobs)
        if body.return_token_ids:
            choice["token_ids"] = list(part.token_ids)
            if begins:
                choice["prompt_token_ids"] = list(prompt.ids)
        return choice

    def _logprobs(
        self, prompt: EncodedPrompt, scored: Sequence[ScoredToken], tokens: Sequence[ScoredToken], *, begins: bool
    ) -> CompletionLogprobs | None:
        if self._body.logprobs is None:
            return None
        own = self._lists.of(tokens, len(prompt.echo.text))
        if not begins or not prompt.echo.offsets:
            return own
        if len(scored) != len(prompt.ids) - 1:
            raise StepFailed(f"{len(scored)} of {len(prompt.ids) - 1} prompt tokens were scored.")
        return joined(self._lists.of_prompt(prompt.echo, scored), own)


def likeliest(choices: Sequence[Choice], count: int) -> list[Choice]:
    """The choices with the highest mean log-probability per token, in the order in which they were made."""
    if len(choices) == count:
        return list(choices)

    def mean(choice: Choice) -> float:
        return sum(token.chosen.logprob for token in choice.tokens) / max(len(choice.tokens), 1)

    best = sorted(range(len(choices)), key=lambda index: -mean(choices[index]))[:count]
    return [choices[index] for index in sorted(best)]
