"""GET /health, /version, /api/hello and /: is anybody there, and who. Says what the worker's own sign of life says."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from server.errors import ErrorRow, envelope
from server.models.registry import Registry
from server.version import VERSION

_DRAINING = ErrorRow(503, "server_error", "server_overloaded", {"retry-after": "5"})
_UNHEALTHY = ErrorRow(503, "server_error", "model_unavailable", {"retry-after": "10"})

router = APIRouter()


@router.get("/health")
@router.head("/health", include_in_schema=False)
async def health(request: Request) -> JSONResponse:
    """200 while requests are answered or will be as soon as the model is read; 503 with the reason otherwise."""
    registry: Registry = request.app.state.registry
    state = registry.health()
    if request.state.draining:
        return _failing(_DRAINING, "draining", "The server is shutting down.")
    if state.state in ("failed", "stuck"):
        return _failing(_UNHEALTHY, state.state, f"The model cannot answer: {state.reason}.")
    if state.state in ("ready", "stopped"):  # what is not in memory is loaded by the next request
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "loading", "done_bytes": state.done_bytes, "total_bytes": state.total_bytes})


def _failing(row: ErrorRow, status: str, message: str) -> JSONResponse:
    body: dict[str, Any] = {"status": status, **envelope(row, message)}
    return JSONResponse(body, row.status, dict(row.headers))


@router.get("/api/hello")
@router.head("/api/hello", include_in_schema=False)
async def hello() -> dict[str, str]:
    """The request of a coding agent before its first real one, to open the connection."""
    return {"message": "hello"}


@router.get("/version")
@router.head("/version", include_in_schema=False)
async def version() -> dict[str, str]:
    """The server's version."""
    return {"version": VERSION}


@router.get("/")
@router.head("/", include_in_schema=False)
async def root() -> dict[str, str]:
    """A sign to whoever opens the address in a browser."""
    return {"name": "bramley", "version": VERSION, "api": "/v1"}
