"""POST /rerank and /score: how well texts fit one another. Knows nothing of workers."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.embedding.encoding import EncodingRequest
from server.api.rerank.reply import rerank_list, score_list, scored_texts
from server.api.rerank.schemas import (
    PairFields,
    RerankList,
    RerankRequest,
    ScoredText,
    ScoreList,
    ScoreRequest,
)
from server.api.shared.answer import json_answer, requested_model
from server.errors import InvalidRequest
from server.generation.encoding import encode, encode_pairs, floats, limits, usage
from server.http.security import LargeBodyRoute
from server.http.traffic import unless_client_leaves
from server.models.served_model import ServedModel
from server.wire.usage import InputUsage

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/rerank", response_model=RerankList | list[ScoredText])
@router.post("/v2/rerank", include_in_schema=False)
async def rerank(body: RerankRequest, request: Request) -> Response:
    """Put documents into the order in which they fit a query."""
    documents = body.documents or body.texts
    pairs = [(body.query, document) for document in documents]
    scores, own_usage, name = await _answered(request, body, pairs, "documents", body.max_tokens_per_doc)
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n or None]
    if body.texts:
        return json_answer(scored_texts(body, scores, best))
    return json_answer(rerank_list(body, scores, best, own_usage, name))


@router.post("/score", response_model=ScoreList)
async def score(body: ScoreRequest, request: Request) -> Response:
    """Score pairs of texts."""
    firsts = body.firsts if len(body.firsts) > 1 else body.firsts * len(body.seconds)
    pairs = list(zip(firsts, body.seconds, strict=True))
    scores, own_usage, name = await _answered(request, body, pairs, "text_2")
    return json_answer(score_list(scores, own_usage, name))


async def _answered(
    request: Request,
    body: PairFields,
    pairs: Sequence[tuple[str, str]],
    param: str,
    second_tokens: int | None = None,
) -> tuple[list[float], InputUsage, str]:
    model = requested_model(request, body.model)
    work = _scores(model, body, pairs, param, second_tokens)
    scores, own_usage = await unless_client_leaves(request.receive, work)
    request.state.record["prompt"] = own_usage["prompt_tokens"]
    return scores, own_usage, body.model or model.name


async def _scores(
    model: ServedModel, body: PairFields, pairs: Sequence[tuple[str, str]], param: str, second_tokens: int | None
) -> tuple[list[float], InputUsage]:
    """One score per pair, and the tokens read."""
    info = await model.expect("classifier")
    if info["num_labels"] != 1:
        message = f"{model.name} gives {info['num_labels']} scores to a pair of texts; one is needed."
        raise InvalidRequest(message, param="model")
    bounds = limits(await model.context_length(), body.truncate_prompt_tokens, truncate=body.truncate)
    inputs = await asyncio.to_thread(encode_pairs, await model.text(), pairs, bounds, second_tokens)
    own = EncodingRequest(f"rank-{uuid4().hex}", inputs, param, raw_scores=body.raw_scores)
    return [floats(values)[0] for values in await encode(model, own)], usage(inputs)
