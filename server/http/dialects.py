"""Errors in the words of the API that was called: the path decides. Knows paths and envelopes, not what failed."""

from typing import Any, Literal, NotRequired

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.errors import ErrorEnvelope, ErrorRow, envelope, envelope_of, headers_of, row_of
from server.http.addresses import canonical

OVERLOADED = 529

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    OVERLOADED: "overloaded_error",
}


class AnthropicErrorDetails(TypedDict):
    """A name of the cause that does not change with the words."""

    error_code: str


class AnthropicErrorBody(TypedDict):
    """The inside of an error answer of /messages."""

    type: str
    message: str
    details: NotRequired[AnthropicErrorDetails]


class AnthropicError(TypedDict):
    """An error answer of /messages, also inside a stream."""

    type: Literal["error"]
    error: AnthropicErrorBody
    request_id: str | None


def speaks_anthropic(path: str) -> bool:
    """Whether errors of this path are told as Anthropic's clients read them."""
    path = canonical(path)
    return path == "/messages" or path.startswith("/messages/")


def anthropic_error(row: ErrorRow, message: str, request_id: str | None) -> AnthropicError:
    """An error answer of /messages from a line of the table and a sentence."""
    kind = _TYPES.get(_anthropic_status(row), "api_error")
    body: AnthropicErrorBody = {"type": kind, "message": message}
    if row.code is not None:
        body["details"] = {"error_code": row.code}
    return {"type": "error", "error": body, "request_id": request_id}


class ErrorAnswer(JSONResponse):
    """An error answer that takes its form when it is sent, because only then the path is known."""

    def __init__(self, row: ErrorRow, body: ErrorEnvelope, headers: dict[str, str]) -> None:
        super().__init__(body, row.status, headers)
        self._row, self._message, self._own_headers = row, body["error"]["message"], headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not speaks_anthropic(scope["path"]):
            await super().__call__(scope, receive, send)
            return
        body = anthropic_error(self._row, self._message, scope.get("state", {}).get("request_id"))
        await JSONResponse(body, _anthropic_status(self._row), self._own_headers)(scope, receive, send)


def refuse(row: ErrorRow, message: str, param: str | None = None, headers: dict[str, Any] | None = None) -> ErrorAnswer:
    """The answer made of a line of the table and a sentence."""
    return ErrorAnswer(row, envelope(row, message, param), {**row.headers, **(headers or {})})


def error_response(error: Exception) -> ErrorAnswer:
    """The answer to any exception."""
    return ErrorAnswer(row_of(error), envelope_of(error), dict(headers_of(error)))


def _anthropic_status(row: ErrorRow) -> int:
    """This API has a status of its own for a server that has too much to do."""
    return OVERLOADED if row.code == "server_overloaded" else row.status
