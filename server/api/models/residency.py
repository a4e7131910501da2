"""POST /models/{id}/load and /unload, and /estimate: what is in memory, and what a prompt would meet."""

import asyncio

from fastapi import APIRouter, Request

from server.api.models.schemas import Estimate, EstimatedMemory, EstimateRequest, LoadRequest
from server.api.shared.answer import requested_model
from server.api.tokens.prompt import prompt_ids
from server.errors import ModelTooLarge
from server.http.traffic import unless_client_leaves
from server.models.registry import Registry
from server.models.served_model import ServedModel
from server.monitoring.status import model_state, model_status
from server.wire.status import ModelStatus

router = APIRouter()


@router.post("/models/{name:path}/load")
async def load_model(name: str, request: Request, body: LoadRequest | None = None) -> ModelStatus:
    """Have a model in memory; answers when it is ready. A client that leaves does not stop it."""
    registry: Registry = request.app.state.registry
    model = requested_model(request, name)
    if body is not None and body.pin is not None:
        model.pinned = body.pin
    model.supervisor.forgive()
    await unless_client_leaves(request.receive, model.ready())
    return model_status(registry, model)


@router.post("/models/{name:path}/unload")
async def unload_model(name: str, request: Request) -> ModelStatus:
    """Take a model out of memory, pinned or not; answers when its running requests have ended and it is gone."""
    registry: Registry = request.app.state.registry
    model = requested_model(request, name)
    model.pinned = False
    await unless_client_leaves(request.receive, registry.residency.unload(model))
    return model_status(registry, model)


@router.post("/estimate")
async def estimate(body: EstimateRequest, request: Request) -> Estimate:
    """Whether a prompt fits, how much of it is stored, and how long its first token takes. Loads nothing."""
    registry: Registry = request.app.state.registry
    model = requested_model(request, body.model)
    ids = await asyncio.to_thread(prompt_ids, await model.text(), body)
    cached = await model.supervisor.cached_tokens(ids)
    context_length = model.last_context_length
    stats = model.supervisor.stats
    load_seconds = 0.0 if model.supervisor.info is not None else model.load_seconds
    reading_seconds = model.prefill_rate.seconds(len(ids) - cached)
    known = load_seconds is not None and reading_seconds is not None
    return {
        "object": "estimate",
        "model": model.name,
        "state": model_state(registry, model),
        "prompt_tokens": len(ids),
        "context_length": context_length,
        "fits": None if context_length is None else model.fits(len(ids), body.max_tokens, context_length),
        "cached_tokens": cached,
        "uncached_tokens": len(ids) - cached,
        "requests_ahead": registry.residency.num_waiting(model) + (0 if stats is None else stats.num_waiting),
        "load_ms": None if load_seconds is None else round(1000 * load_seconds, 1),
        "ttft_ms": round(1000 * ((load_seconds or 0.0) + (reading_seconds or 0.0)), 1) if known else None,
        "memory": _memory(registry, model),
    }


def _memory(registry: Registry, model: ServedModel) -> EstimatedMemory:
    budget_bytes, place = registry.residency.budget_bytes, registry.residency.residence(model)
    try:
        needed_bytes = model.need(budget_bytes) if place is None else place.held_bytes
    except ModelTooLarge as error:
        return {"needed_bytes": error.needed_bytes, "budget_bytes": budget_bytes, "fits": False}
    return {"needed_bytes": needed_bytes, "budget_bytes": budget_bytes, "fits": True}
