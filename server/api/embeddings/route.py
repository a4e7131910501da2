"""POST /embeddings: a vector for every input. Knows nothing of workers."""

import asyncio
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.embedding.encoding import EncodingRequest
from server.api.embeddings.reply import embedding_list
from server.api.embeddings.schemas import EmbeddingList, EmbeddingRequest
from server.api.shared.answer import requested_model
from server.errors import UnsupportedParameter
from server.generation.encoding import encode, encode_inputs, limits, prompt_for, usage
from server.http.security import LargeBodyRoute
from server.http.traffic import unless_client_leaves
from server.models.served_model import ServedModel
from server.models.text import ModelText

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/embeddings", response_model=EmbeddingList)
async def create_embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """Embed one or several texts."""
    model = requested_model(request, body.model)
    return await unless_client_leaves(request.receive, _embed(model, body, request.state.record))


async def _embed(model: ServedModel, body: EmbeddingRequest, record: dict[str, Any]) -> Response:
    info = await model.expect("embedder")
    text = await model.text()
    _check_dimensions(text, body.dimensions, info["embedding_size"])
    bounds = limits(await model.context_length(), body.truncate_prompt_tokens, truncate=body.truncate)
    prompt = prompt_for(text, body.input_type, body.prompt_name)
    inputs = await asyncio.to_thread(encode_inputs, text, body.input, prompt, bounds)
    own = EncodingRequest(f"embd-{uuid4().hex}", inputs, "input", body.dimensions, body.normalize)
    record["prompt"] = usage(inputs)["prompt_tokens"]
    vectors = await encode(model, own)
    answer = await asyncio.to_thread(
        embedding_list, vectors, body.model or model.name, usage(inputs), in_base64=body.encoding_format == "base64"
    )
    return Response(answer, media_type="application/json")


def _check_dimensions(text: ModelText, dimensions: int | None, own: int) -> None:
    if dimensions is None or text.sentence.allows(dimensions, own):
        return
    listed = text.sentence.dimensions
    sizes = f"{own} or less" if listed == () else ", ".join(map(str, sorted({*(listed or ()), own})))
    raise UnsupportedParameter("dimensions", f"this model's vectors can have {sizes} dimensions, not {dimensions}")
