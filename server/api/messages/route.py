"""POST /messages and /messages/count_tokens: Anthropic's API, a conversation answered. Knows nothing of workers."""

import asyncio

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.chat.prompt import chat_plan, encode_conversation
from server.api.messages.prompt import chat_request
from server.api.messages.reply import MessageReply
from server.api.messages.schemas import CountTokensRequest, Message, MessageFields, MessageRequest, TokenCount
from server.api.shared.stream import respond, stopwatch
from server.generation.generation import Generation
from server.http.client_left import unless_client_leaves
from server.http.large_bodies import LargeBodyRoute
from server.http.openapi import STREAMED
from server.models.registry import Registry
from server.models.served_model import GENERATIVE_KINDS, ServedModel
from server.models.text import ModelText

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/messages", response_model=Message, responses=STREAMED)
async def create_message(body: MessageRequest, request: Request) -> Response:
    """Answer the last message of a conversation, or go on with it where it is the model's own."""
    model = _model(request, body)
    chat = await asyncio.to_thread(chat_request, body)
    await unless_client_leaves(request.receive, model.expect(*GENERATIVE_KINDS))
    default_max_tokens = request.app.state.settings.default_max_tokens
    plan = await asyncio.to_thread(chat_plan, await model.text(), chat, default_max_tokens)
    reply = MessageReply(body, body.model or model.name, request.state.request_id, plan.sampling.max_tokens)
    generation = Generation(reply.message_id, model, plan, stopwatch(request, model))
    return await respond(request, generation, reply, stream=body.stream)


@router.post("/messages/count_tokens", response_model=TokenCount)
async def count_tokens(body: CountTokensRequest, request: Request) -> Response:
    """The length of the prompt that a request would have. Waits for no worker."""
    model = _model(request, body)
    count = await asyncio.to_thread(_num_tokens, await model.text(), body)
    answer: TokenCount = {"input_tokens": count}
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _model(request: Request, body: MessageFields) -> ServedModel:
    registry: Registry = request.app.state.registry
    model = registry.find(body.model)
    request.state.record["model"] = model.name
    return model


def _num_tokens(text: ModelText, body: MessageFields) -> int:
    return len(encode_conversation(text, chat_request(body)))
