"""GET /models and /models/{id}: what is served. Answers from memory, also while a model loads."""

from fastapi import APIRouter, Request

from server.registry import Registry, ServedModel
from server.schemas.models import ModelCard, ModelList

router = APIRouter()


@router.get("/models")
@router.head("/models", include_in_schema=False)
async def list_models(request: Request) -> ModelList:
    """All served models, the default first."""
    registry: Registry = request.app.state.registry
    return {"object": "list", "data": [_card(model) for model in registry.models]}


@router.get("/models/{name:path}")
@router.head("/models/{name:path}", include_in_schema=False)
async def retrieve_model(name: str, request: Request) -> ModelCard:
    """One served model; names may hold slashes."""
    registry: Registry = request.app.state.registry
    return _card(registry.find(name))


def _card(model: ServedModel) -> ModelCard:
    context_length = model.known_context_length
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "bramley",
        "max_model_len": context_length,
        "context_length": context_length,
    }
