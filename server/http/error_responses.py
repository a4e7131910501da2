"""Exceptions of the web framework and our own, as JSON answers. Knows no envelope: those are in dialects.py."""

import logging
import re

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from engine.errors import EngineError
from server.errors import INTERNAL, INTERNAL_MESSAGE, ApiError, ErrorRow
from server.http.dialects import error_response, refuse
from server.http.traffic import CLIENT_LEFT, ClientLeft

log = logging.getLogger("bramley.http")

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_INVALID = "invalid_request_error"

# What the framework itself refuses.
_BY_STATUS = {
    400: (ErrorRow(400, _INVALID, "invalid_json"), "The body could not be read as JSON."),
    404: (ErrorRow(404, _INVALID, None), "There is no such route."),
    405: (ErrorRow(405, _INVALID, None), "This route does not know that method."),
    413: (ErrorRow(413, _INVALID, "request_too_large"), "The body is larger than this server accepts."),
}


METHOD_UNKNOWN, ROUTE_UNKNOWN = 405, 404


def install(app: FastAPI) -> None:
    """Give every failure inside the app its JSON answer."""
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(ApiError, _ours)
    app.add_exception_handler(EngineError, _ours)
    app.add_exception_handler(ClientLeft, _left)
    app.add_exception_handler(Exception, _unknown)


async def _ours(_: Request, error: Exception) -> Response:
    return error_response(error)


async def _left(_: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)  # for the log; nobody reads it


async def _unknown(_: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return refuse(INTERNAL, INTERNAL_MESSAGE)


async def _framework(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else INTERNAL.status
    if status == METHOD_UNKNOWN and request.method == "POST" and _is_item(request):
        status = ROUTE_UNKNOWN
    row, message = _BY_STATUS.get(status, (INTERNAL, INTERNAL_MESSAGE))
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return refuse(row, message, headers=headers)


def _is_item(request: Request) -> bool:
    """Whether the path is no route by itself, but could name an item of one, as /responses/compact does."""
    return bool(request.scope.get("path_params"))


async def _validation(_: Request, error: Exception) -> Response:
    """Name the first field at fault, with its path. The messages are those of our own schema."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  # the framework calls it for nothing else
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        row, message = _BY_STATUS[400]
        return refuse(row, message)
    param = dotted(first["loc"][1:])
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    if first["type"] == "unsupported_value":
        code = "unsupported_value"
    message = f"{param or 'The body'}: {first['msg']}."
    return refuse(ErrorRow(400, _INVALID, code), message, param or None)


def dotted(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "role")` as `messages[0].role`; keys that are not field names end the path."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _FIELD.fullmatch(part):
            path += f".{part}" if path else part
        else:
            break
    return path
