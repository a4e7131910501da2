"""/responses: a conversation that the server may remember. Knows the store and the routes, nothing of workers."""

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from server.api.chat.prompt import chat_plan, encode_conversation
from server.api.responses.prompt import chat_request, input_items
from server.api.responses.reply import ResponseReply
from server.api.responses.schemas import DeletedResponse, InputItems, InputTokens, ResponseRequest
from server.api.responses.schemas import Response as ResponseObject
from server.api.responses.store import ResponseStore, StoredResponse
from server.api.shared.stream import respond, stopwatch
from server.errors import InvalidRequest, PreviousResponseNotFound, ResponseNotFound, UnsupportedParameter
from server.generation.generation import Generation
from server.http.client_left import unless_client_leaves
from server.http.large_bodies import LargeBodyRoute
from server.http.openapi import STREAMED
from server.models.registry import Registry
from server.models.served_model import GENERATIVE_KINDS
from server.models.text import ModelText
from server.wire.base import Name

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/responses", response_model=ResponseObject, responses=STREAMED)
async def create_response(body: ResponseRequest, request: Request) -> Response:
    """Answer the last item of a conversation."""
    registry: Registry = request.app.state.registry
    store: ResponseStore = request.app.state.responses
    model = registry.find(body.model)
    request.state.record["model"] = model.name
    given = input_items(body, store)
    items = [*_earlier(store, body.previous_response_id), *given]
    chat = await asyncio.to_thread(chat_request, body, items)
    await unless_client_leaves(request.receive, model.expect(*GENERATIVE_KINDS))
    default_max_tokens = request.app.state.settings.default_max_tokens
    plan = await asyncio.to_thread(chat_plan, await model.text(), chat, default_max_tokens)
    reply = ResponseReply(body, body.model or model.name, store, items, given)
    generation = Generation(reply.response_id, model, plan, stopwatch(request, model))
    return await respond(request, generation, reply, stream=body.stream)


@router.get("/responses/{response_id}", response_model=ResponseObject)
async def retrieve_response(response_id: str, request: Request, stream: bool = False) -> Response:
    """An answer given before."""
    if stream:
        raise UnsupportedParameter("stream", "an answer that is kept is there as a whole")
    return _json(_stored(request, response_id).answer)


@router.get("/responses/{response_id}/input_items", response_model=InputItems)
async def list_input_items(
    response_id: str,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: Name = "",
) -> Response:
    """What it was asked with, a page at a time; after: the last item of the page before."""
    items = _stored(request, response_id).input
    items = items if order == "asc" else items[::-1]
    places = [place for place, item in enumerate(items) if item["id"] == after]
    if after and not places:
        raise InvalidRequest("after is not the id of an item of this response.", param="after")
    begin = places[0] + 1 if places else 0
    page = list(items[begin : begin + limit])
    ids = [item["id"] for item in page]
    answer: InputItems = {
        "object": "list",
        "data": page,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": begin + limit < len(items),
    }
    return _json(answer)


@router.post("/responses/input_tokens", response_model=InputTokens)
async def count_input_tokens(body: ResponseRequest, request: Request) -> Response:
    """The length of the prompt that a request would have. Waits for no worker."""
    registry: Registry = request.app.state.registry
    store: ResponseStore = request.app.state.responses
    model = registry.find(body.model)
    request.state.record["model"] = model.name
    items = [*_earlier(store, body.previous_response_id), *input_items(body, store)]
    count = await asyncio.to_thread(_num_tokens, await model.text(), body, items)
    answer: InputTokens = {"object": "response.input_tokens", "input_tokens": count}
    return _json(answer)


@router.post("/responses/{response_id}/cancel", response_model=ResponseObject)
async def cancel_response(response_id: str, request: Request) -> Response:
    """Nothing is answered in the background here, so nothing that has an id is still being written."""
    _stored(request, response_id)
    raise InvalidRequest("Only a response that is made in the background can be cancelled.", param="response_id")


@router.delete("/responses/{response_id}", response_model=DeletedResponse)
async def delete_response(response_id: str, request: Request) -> Response:
    """Forget an answer."""
    store: ResponseStore = request.app.state.responses
    if not store.remove(response_id):
        raise ResponseNotFound
    answer: DeletedResponse = {"id": response_id, "object": "response", "deleted": True}
    return _json(answer)


def _earlier(store: ResponseStore, response_id: str | None) -> tuple[dict[str, Any], ...]:
    if response_id is None:
        return ()
    stored = store.get(response_id)
    if stored is None:
        raise PreviousResponseNotFound
    return stored.history


def _stored(request: Request, response_id: str) -> StoredResponse:
    store: ResponseStore = request.app.state.responses
    stored = store.get(response_id)
    if stored is None:
        raise ResponseNotFound
    return stored


def _num_tokens(text: ModelText, body: ResponseRequest, items: list[dict[str, Any]]) -> int:
    return len(encode_conversation(text, chat_request(body, items)))


def _json(answer: Any) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
