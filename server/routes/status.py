"""GET /status: everything the server holds and does. Loads nothing."""

from fastapi import APIRouter, Request

from server.schemas.status import Status
from server.status import Watch

router = APIRouter()


@router.get("/status")
@router.head("/status", include_in_schema=False)
async def tell_status(request: Request) -> Status:
    """Models with their state, memory, requests, pulls and the last ten minutes."""
    watch: Watch = request.app.state.watch
    return await watch.status(draining=request.state.draining)
