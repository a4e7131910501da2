"""POST /decisions: how likely the model holds answers to be. Knows the shape of the answer, nothing of workers."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.sampling.params import SamplingParams
from server.api.decisions.prompt import ask
from server.api.decisions.reply import DecisionReply
from server.api.decisions.schemas import Decision, DecisionRequest
from server.api.shared.answer import answer_whole, loaded, requested_model
from server.generation.continuation import TextRules
from server.generation.generation import GenerationPlan
from server.http.security import LargeBodyRoute
from server.models.served_model import GENERATIVE_KINDS

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/decisions", response_model=Decision)
async def create_decision(body: DecisionRequest, request: Request) -> Response:
    """Answer questions about an input with probabilities. Every question reads the input for itself."""
    model = requested_model(request, body.model)
    await loaded(request, model, *GENERATIVE_KINDS)
    asked = await asyncio.to_thread(ask, await model.text(), body)
    reply = DecisionReply(body, body.model or model.name, asked)
    plan = GenerationPlan(
        prompts=tuple(each.prompt for each in asked),
        num_choices=1,
        sampling=SamplingParams(
            max_tokens=1, temperature=0.0, ignore_eos=True, logprobs=0, logprob_ids=reply.label_ids
        ),
        rules=TextRules(),
        param="input",
    )
    return await answer_whole(request, model, plan, reply)
