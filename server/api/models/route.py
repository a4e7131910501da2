"""GET /models and /models/{id}: what is served. Answers from memory, also while a model loads."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from engine.errors import EngineError
from server.api.models.capabilities import capabilities, parameters
from server.api.models.schemas import ModelCard, ModelList
from server.models.registry import Registry
from server.models.served_model import ServedModel
from server.models.text import ModelText
from server.monitoring.status import model_state

router = APIRouter()


@router.get("/models")
@router.head("/models", include_in_schema=False)
async def list_models(request: Request) -> ModelList:
    """Everything that can be served, the default first."""
    registry: Registry = request.app.state.registry
    models = await asyncio.to_thread(registry.all)
    in_anthropics_words = "anthropic-version" in request.headers
    cards = [await _card(registry, model) for model in models]
    by_id = {card["id"]: card for card in cards}
    cards += [{**by_id[model], "id": alias, "root": model} for alias, model in registry.own_aliases() if model in by_id]
    cards = [_told(card, in_anthropics_words=in_anthropics_words) for card in cards]
    ids = [card["id"] for card in cards]
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    return {"object": "list", "data": cards, "first_id": first, "last_id": last, "has_more": False}


@router.get("/models/{name:path}")
@router.head("/models/{name:path}", include_in_schema=False)
async def retrieve_model(name: str, request: Request) -> ModelCard:
    """One served model and what it can do; names may hold slashes."""
    registry: Registry = request.app.state.registry
    model = registry.find(name)
    known = await _known(model)
    return {
        **_told(await _card(registry, model), in_anthropics_words="anthropic-version" in request.headers),
        "parameters": parameters(*known) if known else None,
        "modalities": ["text"],
        "left_out": dict(known[0].get("left_out", {})) if known else None,
    }


async def _card(registry: Registry, model: ServedModel) -> ModelCard:
    context_length, known = model.known_context_length, await _known(model)
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "bramley",
        "root": model.name,
        "aliases": registry.aliases_of(model),
        "state": model_state(registry, model),
        "reason": model.supervisor.health.reason,
        "retry_seconds": model.supervisor.health.retry_seconds,
        "max_model_len": context_length,
        "context_length": context_length,
        "capabilities": capabilities(*known) if known else None,
        "type": "model",
        "display_name": model.name,
        "created_at": datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": context_length,
        "max_tokens": context_length,
    }


def _told(card: ModelCard, *, in_anthropics_words: bool) -> ModelCard:
    """The card, without what Anthropic's clients read as something else."""
    return {**card, "capabilities": None} if in_anthropics_words else card


async def _known(model: ServedModel) -> tuple[Mapping[str, Any], ModelText] | None:
    """The info and the text side of a model that is loaded; None while it is not."""
    info = model.supervisor.info
    try:
        return None if info is None else (info, await model.text())
    except EngineError:  # requests to the model say what is wrong with its files
        return None
