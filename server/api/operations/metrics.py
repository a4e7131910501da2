"""GET /metrics: counts for those who watch the server. Knows no model."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from server.monitoring.metrics import CONTENT_TYPE, Metrics

router = APIRouter()


@router.get("/metrics", response_class=PlainTextResponse)
@router.head("/metrics", include_in_schema=False)
async def tell_metrics(request: Request) -> Response:
    """Everything that is counted, in Prometheus' text format."""
    metrics: Metrics = request.app.state.metrics
    return Response(await asyncio.to_thread(metrics.text), headers={"content-type": CONTENT_TYPE})
