"""/responses: a conversation that the server may remember. Knows the store and the routes, nothing of workers."""

import asyncio
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from server.api.chat.prompt import encode_conversation
from server.api.chat.route import plan_conversation
from server.api.responses.prompt import chat_request, input_items
from server.api.responses.reply import ResponseReply
from server.api.responses.schemas import DeletedResponse, InputItems, InputTokens, ResponseRequest
from server.api.responses.schemas import Response as ResponseObject
from server.api.responses.store import ResponseStore, StoredResponse
from server.api.shared.answer import answer, json_answer, requested_model
from server.errors import InvalidRequest, PreviousResponseNotFound, ResponseNotFound, UnsupportedParameter
from server.http.openapi import STREAMED
from server.http.security import LargeBodyRoute
from server.models.text import ModelText
from server.wire.base import Name

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/responses", response_model=ResponseObject, responses=STREAMED)
async def create_response(body: ResponseRequest, request: Request) -> Response:
    """Answer the last item of a conversation."""
    store: ResponseStore = request.app.state.responses
    model = requested_model(request, body.model)
    given = input_items(body, store)
    items = [*_earlier(store, body.previous_response_id), *given]
    chat = await asyncio.to_thread(chat_request, body, items)
    reply = ResponseReply(body, body.model or model.name, store, items, given)
    prepare = partial(plan_conversation, request, model, chat)
    return await answer(request, model, prepare, reply, stream=body.stream)


@router.get("/responses/{response_id}", response_model=ResponseObject)
async def retrieve_response(response_id: str, request: Request, stream: bool = False) -> Response:
    """An answer given before."""
    if stream:
        raise UnsupportedParameter("stream", "an answer that is kept is there as a whole")
    return json_answer(_stored(request, response_id).answer)


@router.get("/responses/{response_id}/input_items", response_model=InputItems)
async def list_input_items(
    response_id: str,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: Name = "",
) -> Response:
    """The items that a response was asked with, a page at a time; after: the last item of the page before."""
    items = _stored(request, response_id).input
    items = items if order == "asc" else items[::-1]
    places = [place for place, item in enumerate(items) if item["id"] == after]
    if after and not places:
        raise InvalidRequest("after is not the id of an item of this response.", param="after")
    begin = places[0] + 1 if places else 0
    page = list(items[begin : begin + limit])
    ids = [item["id"] for item in page]
    listed: InputItems = {
        "object": "list",
        "data": page,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": begin + limit < len(items),
    }
    return json_answer(listed)


@router.post("/responses/input_tokens", response_model=InputTokens)
async def count_input_tokens(body: ResponseRequest, request: Request) -> Response:
    """The length of the prompt that a request would have. Waits for no worker."""
    store: ResponseStore = request.app.state.responses
    model = requested_model(request, body.model)
    items = [*_earlier(store, body.previous_response_id), *input_items(body, store)]
    count = await asyncio.to_thread(_num_tokens, await model.text(), body, items)
    counted: InputTokens = {"object": "response.input_tokens", "input_tokens": count}
    return json_answer(counted)


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
    deleted: DeletedResponse = {"id": response_id, "object": "response", "deleted": True}
    return json_answer(deleted)


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
