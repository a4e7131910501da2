"""POST /completions: prompts of text or ids, continued. Knows nothing of workers."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.completions.prompt import EncodedPrompt, completion_plan, encode_prompts
from server.api.completions.reply import CompletionReply
from server.api.completions.schemas import Completion, CompletionRequest
from server.api.shared.answer import answer, requested_model
from server.errors import UnsupportedParameter
from server.generation.generation import GenerationPlan
from server.http.openapi import STREAMED
from server.http.security import LargeBodyRoute
from server.models.served_model import GENERATIVE_KINDS, ServedModel

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/completions", response_model=Completion, responses=STREAMED)
async def create_completion(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several prompts."""
    model = requested_model(request, body.model)
    reply = CompletionReply(body, body.model or model.name)

    async def prepare() -> GenerationPlan:
        reply.prompts, plan = await _plan(model, body)
        return plan

    return await answer(request, model, prepare, reply, stream=body.stream)


async def _plan(model: ServedModel, body: CompletionRequest) -> tuple[list[EncodedPrompt], GenerationPlan]:
    """Load the model, then encode the prompts, beside the event loop. Raises UnsupportedParameter."""
    info = await model.expect(*GENERATIVE_KINDS)
    if body.scored_rivals is not None and not info.get("scores_prompts"):
        param = "prompt_logprobs" if body.prompt_logprobs is not None else "logprobs"
        raise UnsupportedParameter(param, "this model cannot score a prompt")
    text = await model.text()
    prompts = await asyncio.to_thread(encode_prompts, text, body, await model.context_length())
    return prompts, await asyncio.to_thread(completion_plan, text, body, tuple(prompt.ids for prompt in prompts))
