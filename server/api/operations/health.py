"""GET /health, /version, /api/hello and /: is anybody there, and who. Says what the worker's own sign of life says."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from server.errors import ErrorRow, envelope
from server.models.registry import Registry
from server.version import VERSION
from server.worker.supervisor import Health

_DRAINING = ErrorRow(503, "server_error", "server_overloaded", {"retry-after": "5"})
_UNHEALTHY = ErrorRow(503, "server_error", "model_unavailable", {"retry-after": "10"})
# After a failed load, and until a worker that is stuck is replaced.
_NEXT_SECONDS, _STUCK_SECONDS = 1, 20

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
        seconds = state.retry_seconds or (_NEXT_SECONDS if state.state == "failed" else _STUCK_SECONDS)
        return _failing(_UNHEALTHY, state.state, _unhealthy_message(registry.default.name, state), seconds)
    if state.state in ("ready", "stopped"):  # what is not in memory is loaded by the next request
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "loading", "done_bytes": state.done_bytes, "total_bytes": state.total_bytes})


def _unhealthy_message(name: str, health: Health) -> str:
    message = f"The model cannot answer: {health.reason.rstrip('.')}."
    if health.state == "stuck":
        return f"{message} It is started again by itself if it stays so."
    again = f"in {health.retry_seconds} s" if health.retry_seconds else "with the next request"
    return f"{message} It is tried again {again}, or at once by POST /v1/models/{name}/load."


def _failing(row: ErrorRow, status: str, message: str, retry_seconds: int | None = None) -> JSONResponse:
    body: dict[str, Any] = {"status": status, **envelope(row, message)}
    again = {} if retry_seconds is None else {"retry-after": str(retry_seconds)}
    return JSONResponse(body, row.status, {**row.headers, **again})


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
