"""POST /chat/completions: a conversation, answered. Knows nothing of workers."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.chat.prompt import chat_plan
from server.api.chat.reply import ChatReply
from server.api.chat.schemas import (
    ChatCompletion,
    ChatCompletionRequest,
)
from server.api.shared.stream import respond, stopwatch
from server.generation.generation import Generation
from server.http.client_left import unless_client_leaves
from server.http.large_bodies import LargeBodyRoute
from server.http.openapi import STREAMED
from server.models.registry import Registry
from server.models.served_model import GENERATIVE_KINDS

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/chat/completions", response_model=ChatCompletion, responses=STREAMED)
async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
    """Answer the last message of a conversation."""
    registry: Registry = request.app.state.registry
    model = registry.find(body.model)
    request.state.record["model"] = model.name
    await unless_client_leaves(request.receive, model.expect(*GENERATIVE_KINDS))
    default_max_tokens = request.app.state.settings.default_max_tokens
    plan = await asyncio.to_thread(chat_plan, await model.text(), body, default_max_tokens)
    reply = ChatReply(body, body.model or model.name, plan.prompts[0])
    generation = Generation(reply.completion_id, model, plan, stopwatch(request, model))
    return await respond(request, generation, reply, stream=body.stream)
