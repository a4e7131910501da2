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
from server.chunks import ChunkedReply
from server.completion_prompts import Echo, echoes, encode_prompts
from server.continuation import Delta, ScoredToken
from server.errors import UnsupportedParameter
from server.generation import Choice, Generation, Plan
from server.registry import WRITING_KINDS, ModelText, Registry
from server.sampling import sampling_params, text_rules
from server.schemas.completions import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from server.schemas.usage import Usage
from server.stream import respond, stopwatch, unless_client_leaves
from server.version import FINGERPRINT

router = APIRouter()


@router.post("/completions", response_model=Completion)
async def create_completion(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several prompts."""
    registry: Registry = request.app.state.registry
    model = registry.find(body.model)
    request.state.record["model"] = model.name
    info = await unless_client_leaves(request.receive, model.expect(*WRITING_KINDS))
    if body.echo and body.logprobs is not None and not info.get("scores_prompts"):
        raise UnsupportedParameter("logprobs", "this model cannot score a prompt, so not together with echo")
    text = await model.text()
    prompts, echoed = await asyncio.to_thread(_prompts, text, body)
    reply = CompletionReply(body, body.model or model.name, echoed)
    generation = Generation(reply.completion_id, model, _plan(text, body, prompts), stopwatch(request, model))
    return await respond(request, generation, reply, stream=body.stream)


def _prompts(text: ModelText, body: CompletionRequest) -> tuple[tuple[tuple[int, ...], ...], list[Echo]]:
    prompts = encode_prompts(text, body)
    return prompts, echoes(text, body, prompts)


def _plan(text: ModelText, body: CompletionRequest, prompts: tuple[tuple[int, ...], ...]) -> Plan:
    # Choices are judged by their scores, so these are needed even if nobody reads them.
    logprobs = 0 if body.logprobs is None and body.num_tries > body.n else body.logprobs
    sampling = sampling_params(body, text.defaults, max_tokens=_max_tokens(text, body), logprobs=logprobs)
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
        prompt_logprobs=body.logprobs if body.echo else None,
    )


def _max_tokens(text: ModelText, body: CompletionRequest) -> int | None:
    """The request's; where it says nothing, as many as a model that reads a source is made for, else the API's 16."""
    unset = "max_tokens" not in body.model_fields_set
    return text.defaults.max_new_tokens if unset and text.defaults.reads_source else body.max_tokens


class CompletionReply(ChunkedReply):
    """Completions and their chunks, which have the same shape."""

    def __init__(self, body: CompletionRequest, model_name: str, echoed: Sequence[Echo]) -> None:
        super().__init__(body.stream_options)
        self.completion_id = f"cmpl-{uuid4().hex}"
        self.num_choices = len(body.prompt) * body.num_tries
        self._num_wanted, self._num_tries = body.n, body.num_tries
        self._wants_logprobs = body.logprobs is not None
        self._model_name = model_name
        self._created = int(time())
        self._echoes = [echoed[index // body.num_tries] for index in range(self.num_choices)]
        self._begun: set[int] = set()

    def chunks(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """One chunk per delta; the first of a choice begins with the echoed prompt."""
        echo = self._echoes[delta.index]
        text = delta.text if delta.index in self._begun else echo.text + delta.text
        begins = delta.index not in self._begun
        self._begun.add(delta.index)
        logprobs = self._logprobs(echo, delta.prompt, delta.tokens, begins=begins)
        choice: CompletionChoice = {
            "index": delta.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": delta.finish_reason,
        }
        yield dict(self._answer([choice]))

    def usage_chunk(self, usage: Usage) -> Mapping[str, Any]:
        """A chunk without choices."""
        return {**self._answer([]), "usage": usage}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Mapping[str, Any]:
        """All choices at once; of several tries at a prompt, the likeliest."""
        tries = [choices[start : start + self._num_tries] for start in range(0, len(choices), self._num_tries)]
        best = [choice for each in tries for choice in likeliest(each, self._num_wanted)]
        echoed = [echo for echo in self._echoes[:: self._num_tries] for _ in range(self._num_wanted)]
        whole = [self._choice(index, choice, echoed[index]) for index, choice in enumerate(best)]
        return {**self._answer(whole), "usage": usage}

    def _answer(self, choices: list[CompletionChoice]) -> Completion:
        return {
            "id": self.completion_id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }

    def _choice(self, index: int, choice: Choice, echo: Echo) -> CompletionChoice:
        return {
            "index": index,
            "text": echo.text + choice.text,
            "logprobs": self._logprobs(echo, choice.prompt, choice.tokens, begins=True),
            "finish_reason": choice.finish_reason,
        }

    def _logprobs(
        self, echo: Echo, prompt: Sequence[ScoredToken], tokens: Sequence[ScoredToken], *, begins: bool
    ) -> CompletionLogprobs | None:
        if not self._wants_logprobs:
            return None
        own = completion_logprobs(tokens, len(echo.text))
        return joined(prompt_logprobs(echo, prompt), own) if begins and echo.offsets else own


def likeliest(choices: Sequence[Choice], count: int) -> list[Choice]:
    """The choices with the highest mean log-probability per token, in the order in which they were made."""
    if len(choices) == count:
        return list(choices)

    def mean(choice: Choice) -> float:
        return sum(token.chosen.logprob for token in choice.tokens) / max(len(choice.tokens), 1)

    best = sorted(range(len(choices)), key=lambda index: -mean(choices[index]))[:count]
    return [choices[index] for index in sorted(best)]


def prompt_logprobs(echo: Echo, prompt: Sequence[ScoredToken]) -> CompletionLogprobs:
    """The same lists for the echoed prompt; nothing stands before its first token, which has no score."""
    if len(prompt) != len(echo.offsets) - 1:
        raise StepFailed(f"{len(prompt)} of {len(echo.offsets) - 1} prompt tokens were scored.")
    scored = completion_logprobs(prompt, 0)
    return {
        "tokens": [echo.first_token, *scored["tokens"]],
        "token_logprobs": [None, *scored["token_logprobs"]],
        "top_logprobs": [None, *scored["top_logprobs"]],
        "text_offset": list(echo.offsets),
    }


def joined(first: CompletionLogprobs, second: CompletionLogprobs) -> CompletionLogprobs:
    """One after the other."""
    return {
        "tokens": first["tokens"] + second["tokens"],
        "token_logprobs": first["token_logprobs"] + second["token_logprobs"],
        "top_logprobs": first["top_logprobs"] + second["top_logprobs"],
        "text_offset": first["text_offset"] + second["text_offset"],
    }


def completion_logprobs(tokens: Sequence[ScoredToken], start: int = 0) -> CompletionLogprobs:
    """Four lists of equal length. Of two tokens with the same text the likelier one is kept.

    start: where in the answer the generated text begins, in characters
    """
    return {
        "tokens": [token.chosen.text for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [_likely_by_text(token) for token in tokens],
        "text_offset": [start + token.offset for token in tokens],
    }


def _likely_by_text(token: ScoredToken) -> dict[str, float]:
    by_text: dict[str, float] = {}
    for each in (*token.likely, token.chosen):
        by_text[each.text] = max(each.logprob, by_text.get(each.text, each.logprob))
    return by_text
