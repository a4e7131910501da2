"""GET /status: everything the server holds and does. Loads nothing."""

from fastapi import APIRouter, Request

from server.monitoring.status import Watch
from server.wire.status import Status

router = APIRouter()


@router.get("/status")
@router.head("/status", include_in_schema=False)
async def tell_status(request: Request) -> Status:
    """Models with their state, memory, requests, pulls and the last ten minutes."""
    watch: Watch = request.app.state.watch
    return await watch.status(draining=request.state.draining)
