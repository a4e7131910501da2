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
from server.api.shared.answer import answer, requested_model
from server.generation.generation import GenerationPlan
from server.http.openapi import STREAMED
from server.http.security import LargeBodyRoute
from server.models.served_model import GENERATIVE_KINDS, ServedModel

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/chat/completions", response_model=ChatCompletion, responses=STREAMED)
async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
    """Answer the last message of a conversation."""
    model = requested_model(request, body.model)
    reply = ChatReply(body, body.model or model.name)

    async def prepare() -> GenerationPlan:
        plan = await plan_conversation(request, model, body)
        reply.prompt_ids = plan.prompts[0]
        return plan

    return await answer(request, model, prepare, reply, stream=body.stream)


async def plan_conversation(request: Request, model: ServedModel, body: ChatCompletionRequest) -> GenerationPlan:
    """Load the model, then make its prompt of a conversation, beside the event loop. Raises TemplateFailed."""
    await model.expect(*GENERATIVE_KINDS)
    default_max_tokens = request.app.state.settings.default_max_tokens
    return await asyncio.to_thread(chat_plan, await model.text(), body, default_max_tokens)
