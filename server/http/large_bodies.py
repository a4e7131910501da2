"""Routes that read a large body in a thread, while the event loop goes on. Knows the framework; knows no field."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

LARGE_BYTES = 64 * 2**10
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class LargeBodyRoute(APIRoute):
    """A route whose parameter `body`, if it has one, is made beside the event loop when much has been sent."""

    def get_route_handler(self) -> Handler:
        """The function that the framework calls for each request."""
        handle_small = super().get_route_handler()
        model = get_type_hints(self.endpoint).get("body")
        if model is None:
            return handle_small

        async def handle(request: Request) -> Response:
            body = await request.body()
            if len(body) <= LARGE_BYTES:
                return await handle_small(request)
            value = await asyncio.to_thread(read_body, model, body)
            answer: Response = await self.endpoint(body=value, request=request)
            return answer

        return handle


def read_body(model: type[BaseModel], body: bytes) -> BaseModel:
    """The request in a body. Raises what the framework raises for its own: RequestValidationError, HTTPException."""
    try:
        value = json.loads(body)
    except json.JSONDecodeError as error:
        raise RequestValidationError([{"type": "json_invalid", "loc": ("body", error.pos), "msg": error.msg}]) from None
    except (ValueError, RecursionError):
        raise HTTPException(400) from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in errors]) from None
