"""POST /messages and /messages/count_tokens: Anthropic's API, a conversation answered. Knows nothing of workers."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.chat.prompt import encode_conversation
from server.api.chat.route import plan_conversation
from server.api.messages.prompt import chat_request
from server.api.messages.reply import MessageReply
from server.api.messages.schemas import CountTokensRequest, Message, MessageFields, MessageRequest, TokenCount
from server.api.shared.answer import answer, json_answer, requested_model
from server.generation.generation import GenerationPlan
from server.http.openapi import STREAMED
from server.http.security import LargeBodyRoute
from server.models.text import ModelText

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/messages", response_model=Message, responses=STREAMED)
async def create_message(body: MessageRequest, request: Request) -> Response:
    """Answer the last message of a conversation, or go on with it where it is the model's own."""
    model = requested_model(request, body.model)
    chat = await asyncio.to_thread(chat_request, body)
    reply = MessageReply(body, body.model or model.name, request.state.request_id)

    async def prepare() -> GenerationPlan:
        plan = await plan_conversation(request, model, chat)
        reply.max_tokens = plan.sampling.max_tokens
        return plan

    return await answer(request, model, prepare, reply, stream=body.stream)


@router.post("/messages/count_tokens", response_model=TokenCount)
async def count_tokens(body: CountTokensRequest, request: Request) -> Response:
    """The length of the prompt that a request would have. Waits for no worker."""
    model = requested_model(request, body.model)
    count = await asyncio.to_thread(_num_tokens, await model.text(), body)
    counted: TokenCount = {"input_tokens": count}
    return json_answer(counted)


def _num_tokens(text: ModelText, body: MessageFields) -> int:
    return len(encode_conversation(text, chat_request(body)))
