"""POST /chat/completions: a conversation, answered. Knows messages and the shape of the answer, nothing of workers."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from time import time
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.errors import TemplateFailed
from engine.sequence import FinishReason
from engine.text.chat import encode_chat
from server.continuation import Delta, LikelyToken, ScoredToken
from server.errors import InvalidRequest
from server.generation import Choice, Generation, Plan
from server.registry import WRITING_KINDS, ModelText, Registry
from server.sampling import sampling_params, text_rules
from server.schemas.chat import (
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)
from server.schemas.usage import Usage
from server.stream import respond, unless_client_leaves
from server.version import FINGERPRINT

router = APIRouter()


@router.post("/chat/completions", response_model=ChatCompletion)
async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
    """Answer the last message of a conversation."""
    registry: Registry = request.app.state.registry
    model = registry.find(body.model)
    request.state.record["model"] = model.name
    await unless_client_leaves(request.receive, model.expect(*WRITING_KINDS))
    text = await model.text()
    prompt = await asyncio.to_thread(encode_conversation, text, body)
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if max_tokens is None:
        max_tokens = text.defaults.max_new_tokens or request.app.state.settings.default_max_tokens
    plan = Plan(
        prompts=(prompt,),
        num_choices=body.n,
        sampling=sampling_params(
            body, text.defaults, max_tokens=max_tokens, logprobs=body.top_logprobs if body.logprobs else None
        ),
        rules=text_rules(body),
        param="messages",
    )
    reply = ChatReply(body, body.model or model.name)
    generation = Generation(reply.completion_id, model, plan)
    return await respond(request, generation, reply, body.stream_options if body.stream else None)


def encode_conversation(text: ModelText, body: ChatCompletionRequest) -> tuple[int, ...]:
    """The conversation as the model was taught to read it. Raises TemplateFailed."""
    if text.chat_template is None and text.defaults.reads_source:
        return encode_source(text, body)
    if text.chat_template is None:
        raise TemplateFailed("This model has no chat template; use /v1/completions.")
    ids = encode_chat(
        text.chat_template,
        text.tokenizer,
        [template_message(message) for message in body.messages],
        add_generation_prompt=body.add_generation_prompt and not body.continue_final_message,
        continue_final_message=body.continue_final_message,
        variables=template_variables(body),
    )
    if not ids:
        raise TemplateFailed("The chat template made an empty prompt of these messages.")
    return tuple(ids)


def encode_source(text: ModelText, body: ChatCompletionRequest) -> tuple[int, ...]:
    """The source of an encoder-decoder model: system messages and the last message of the user, a line each.

    Such models answer one text with another: earlier turns are no part of what they were trained on.
    """
    instructions = [message.content for message in body.messages if message.role in ("system", "developer")]
    asked = [message.content for message in body.messages if message.role == "user"]
    if not asked:
        raise InvalidRequest(
            "messages must hold a message of the user: this model rewrites its text.", param="messages"
        )
    source = "\n".join([*filter(None, instructions), asked[-1]])
    return tuple(text.tokenizer.encode(source, parse_special=False))


def template_message(message: ChatMessage) -> dict[str, Any]:
    """A message as templates expect it: `developer` is `system`, arguments of calls are objects."""
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    optional = {
        "name": message.name,
        "reasoning_content": message.reasoning_content,
        "tool_call_id": message.tool_call_id,
        "tool_calls": [_template_call(call) for call in message.tool_calls],
    }
    return {"role": role, "content": message.content, **{name: value for name, value in optional.items() if value}}


def _template_call(call: ToolCall) -> dict[str, Any]:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):  # what a model once wrote is shown to it as it is
            arguments = json.loads(arguments or "{}")
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def template_variables(body: ChatCompletionRequest) -> dict[str, Any]:
    """What the template may ask for besides messages; how much to think has several spellings."""
    effort = body.reasoning_effort or (body.reasoning.effort if body.reasoning else None)
    off = effort == "none" or (body.reasoning is not None and not body.reasoning.enabled)
    thinking: dict[str, Any] = {"enable_thinking": False} if off else {"reasoning_effort": effort} if effort else {}
    return {**thinking, **body.chat_template_kwargs}


class ChatReply:
    """Chat completions and their chunks."""

    def __init__(self, body: ChatCompletionRequest, model_name: str) -> None:
        self.completion_id = f"chatcmpl-{uuid4().hex}"
        self.num_choices = body.n
        self._wants_logprobs = body.logprobs
        self._model_name = model_name
        self._created = int(time())
        self._begun: set[int] = set()

    def chunks(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """The role before the first piece of a choice, the piece, the finish after the last."""
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            yield self._chunk(delta.index, {"role": "assistant", "content": ""})
        if delta.text or delta.tokens:
            yield self._chunk(delta.index, {"content": delta.text}, tokens=delta.tokens)
        if delta.finish_reason:
            yield self._chunk(delta.index, {}, finish_reason=delta.finish_reason)

    def usage_chunk(self, usage: Usage) -> Mapping[str, Any]:
        """A chunk without choices."""
        return {**self._event([]), "usage": usage}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> ChatCompletion:
        """All choices at once."""
        return {
            "id": self.completion_id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": FINGERPRINT,
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": None},
                    "logprobs": chat_logprobs(choice.tokens) if self._wants_logprobs else None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(choices)
            ],
            "usage": usage,
        }

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        *,
        tokens: Sequence[ScoredToken] = (),
        finish_reason: FinishReason | None = None,
    ) -> dict[str, Any]:
        logprobs = chat_logprobs(tokens) if self._wants_logprobs and tokens else None
        return dict(
            self._event([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}])
        )

    def _event(self, choices: list[ChatChunkChoice]) -> ChatCompletionChunk:
        return {
            "id": self.completion_id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }


def chat_logprobs(tokens: Sequence[ScoredToken]) -> ChatLogprobs:
    """One entry per token of the content; the end token is not part of it."""
    content: list[TokenLogprob] = [
        {**_entry(token.chosen), "top_logprobs": [_entry(each) for each in token.likely]}
        for token in tokens
        if not token.is_end
    ]
    return {"content": content, "refusal": None}


def _entry(token: LikelyToken) -> TopLogprob:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}
