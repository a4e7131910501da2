"""POST /responses: a conversation that the server may remember. Knows the store and the routes, nothing of workers."""

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.conversation import chat_plan
from server.errors import PreviousResponseNotFound, ResponseNotFound
from server.generation import Generation
from server.registry import WRITING_KINDS, Registry
from server.response_input import chat_request, input_items
from server.response_reply import ResponseReply
from server.response_store import ResponseStore, StoredResponse
from server.schemas.responses import DeletedResponse, InputItems, ResponseRequest
from server.schemas.responses import Response as ResponseObject
from server.stream import respond, stopwatch, unless_client_leaves

router = APIRouter()


@router.post("/responses", response_model=ResponseObject)
async def create_response(body: ResponseRequest, request: Request) -> Response:
    """Answer the last item of a conversation."""
    registry: Registry = request.app.state.registry
    store: ResponseStore = request.app.state.responses
    model = registry.find(body.model)
    request.state.record["model"] = model.name
    given = input_items(body)
    items = [*_earlier(store, body.previous_response_id), *given]
    chat = await asyncio.to_thread(chat_request, body, items)
    await unless_client_leaves(request.receive, model.expect(*WRITING_KINDS))
    default_max_tokens = request.app.state.settings.default_max_tokens
    plan = await asyncio.to_thread(chat_plan, await model.text(), chat, default_max_tokens)
    reply = ResponseReply(body, body.model or model.name, store, items, given)
    generation = Generation(reply.response_id, model, plan, stopwatch(request, model))
    return await respond(request, generation, reply, stream=body.stream)


@router.get("/responses/{response_id}", response_model=ResponseObject)
async def retrieve_response(response_id: str, request: Request) -> Response:
    """An answer given before."""
    return _json(_stored(request, response_id).answer)


@router.get("/responses/{response_id}/input_items", response_model=InputItems)
async def list_input_items(response_id: str, request: Request) -> Response:
    """What it was asked with."""
    items = _stored(request, response_id).input
    answer: InputItems = {"object": "list", "data": list(items), "first_id": None, "last_id": None, "has_more": False}
    return _json(answer)


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


def _json(answer: Any) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
