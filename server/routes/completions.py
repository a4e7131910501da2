"""POST /completions: prompts of text or ids, continued. Knows the shape of the answer, nothing of workers."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from time import time
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.errors import ParameterInvalid
from server.continuation import Delta, ScoredToken
from server.generation import Choice, Generation, Plan
from server.registry import WRITING_KINDS, ModelText, Registry
from server.sampling import sampling_params, text_rules
from server.schemas.completions import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from server.schemas.prompts import Prompt
from server.schemas.usage import Usage
from server.stream import respond, unless_client_leaves
from server.version import FINGERPRINT

router = APIRouter()


@router.post("/completions", response_model=Completion)
async def create_completion(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several prompts."""
    registry: Registry = request.app.state.registry
    model = registry.find(body.model)
    request.state.record["model"] = model.name
    await unless_client_leaves(request.receive, model.expect(*WRITING_KINDS))
    text = await model.text()
    prompts = await asyncio.to_thread(encode_prompts, text, body)
    plan = Plan(
        prompts=prompts,
        num_choices=body.n,
        sampling=sampling_params(body, text.defaults, max_tokens=_max_tokens(text, body), logprobs=body.logprobs),
        rules=text_rules(body),
        param="prompt",
    )
    echoes = await asyncio.to_thread(echoed_prompts, text, body, prompts) if body.echo else [""] * len(prompts)
    reply = CompletionReply(body, body.model or model.name, echoes)
    generation = Generation(reply.completion_id, model, plan)
    return await respond(request, generation, reply, body.stream_options if body.stream else None)


def _max_tokens(text: ModelText, body: CompletionRequest) -> int | None:
    """The request's; where it says nothing, as many as a model that reads a source is made for, else the API's 16."""
    unset = "max_tokens" not in body.model_fields_set
    return text.defaults.max_new_tokens if unset and text.defaults.reads_source else body.max_tokens


def encode_prompts(text: ModelText, body: CompletionRequest) -> tuple[tuple[int, ...], ...]:
    """Every prompt as ids. Given ids are used as they are, within the vocabulary."""
    return tuple(_encode(text, prompt, body.add_special_tokens) for prompt in body.prompt)


def _encode(text: ModelText, prompt: Prompt, add_special_tokens: bool) -> tuple[int, ...]:
    tokenizer = text.tokenizer
    if isinstance(prompt, str):
        return tuple(tokenizer.encode(prompt, add_special_tokens=add_special_tokens)) or _start_of_text(text)
    if max(prompt) >= tokenizer.vocab_size:
        raise ParameterInvalid(
            "prompt", f"prompt holds the token id {max(prompt)}; this model knows {tokenizer.vocab_size} tokens."
        )
    return tuple(prompt)


def _start_of_text(text: ModelText) -> tuple[int, ...]:
    """An empty prompt still needs a token to begin from."""
    tokenizer = text.tokenizer
    start = (tokenizer.bos_token_id,) if tokenizer.bos_token_id is not None else tokenizer.eos_token_ids[:1]
    if not start:
        raise ParameterInvalid("prompt", "prompt is empty, and this model has no token to begin a text with.")
    return start


def echoed_prompts(text: ModelText, body: CompletionRequest, prompts: Sequence[Sequence[int]]) -> list[str]:
    """What `echo` puts before each continuation."""
    return [
        given if isinstance(given, str) else text.tokenizer.decode(ids, skip_special_tokens=body.skip_special_tokens)
        for given, ids in zip(body.prompt, prompts, strict=True)
    ]


class CompletionReply:
    """Completions and their chunks, which have the same shape."""

    def __init__(self, body: CompletionRequest, model_name: str, echoes: Sequence[str]) -> None:
        self.completion_id = f"cmpl-{uuid4().hex}"
        self.num_choices = len(body.prompt) * body.n
        self._wants_logprobs = body.logprobs is not None
        self._model_name = model_name
        self._created = int(time())
        self._echoes = {index: echoes[index // body.n] for index in range(self.num_choices)}

    def chunks(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """One chunk per delta; the first of a choice begins with the echoed prompt."""
        text = self._echoes.pop(delta.index, "") + delta.text
        yield dict(self._answer([self._choice(delta.index, text, delta.tokens, delta.finish_reason)]))

    def usage_chunk(self, usage: Usage) -> Mapping[str, Any]:
        """A chunk without choices."""
        return {**self._answer([]), "usage": usage}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Mapping[str, Any]:
        """All choices at once."""
        whole = [
            self._choice(index, self._echoes[index] + choice.text, choice.tokens, choice.finish_reason)
            for index, choice in enumerate(choices)
        ]
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

    def _choice(self, index: int, text: str, tokens: Sequence[ScoredToken], finish_reason: Any) -> CompletionChoice:
        logprobs = completion_logprobs(tokens) if self._wants_logprobs else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def completion_logprobs(tokens: Sequence[ScoredToken]) -> CompletionLogprobs:
    """Four lists of equal length. Of two tokens with the same text the likelier one is kept."""
    return {
        "tokens": [token.chosen.text for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [_likely_by_text(token) for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def _likely_by_text(token: ScoredToken) -> dict[str, float]:
    by_text: dict[str, float] = {}
    for each in (*token.likely, token.chosen):
        by_text[each.text] = max(each.logprob, by_text.get(each.text, each.logprob))
    return by_text
