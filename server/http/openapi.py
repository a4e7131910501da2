"""The answers in the OpenAPI document that no route declares: failures, and streams of events."""

import asyncio
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from server.errors import ErrorEnvelope
from server.http.dialects import AnthropicError

Responses = dict[int | str, dict[str, Any]]


def failures(model: type) -> Responses:
    """Every status of a failure, in one envelope."""
    return {
        "4XX": {"description": "The request cannot be answered as it is.", "model": model},
        "5XX": {"description": "The server cannot answer now, or failed to.", "model": model},
    }


def description_route(app: FastAPI) -> None:
    """Have the application describe itself at /openapi.json, made once, beside the event loop."""
    made: asyncio.Task[bytes] | None = None

    async def describe(_: Request) -> Response:
        nonlocal made
        if made is None:
            made = asyncio.create_task(asyncio.to_thread(lambda: msgspec.json.encode(app.openapi())))
        return Response(await asyncio.shield(made), media_type="application/json")

    app.add_route("/openapi.json", describe, methods=["GET", "HEAD"], include_in_schema=False)


FAILURES = failures(ErrorEnvelope)
MESSAGE_FAILURES = failures(AnthropicError)
# Beside the whole answer, which the route declares.
STREAMED: Responses = {200: {"content": {"text/event-stream": {}}}}
