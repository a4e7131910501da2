"""How clients differ: the addresses that they ask at, and the form in which they read errors. Knows paths and
envelopes; knows no route and not what failed."""

import re
from typing import Any, Literal, NotRequired

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.errors import ErrorEnvelope, ErrorRow, envelope, envelope_of, headers_of, row_of

_SLASHES = re.compile(r"/{2,}")
_LEADING_V1 = re.compile(r"^(?:/v1(?=/|$))+")
# A full endpoint address given as base address, with the client's own path behind it.
_PASTED_ENDPOINT = re.compile(
    r"^(/chat/completions|/completions|/embeddings|/messages)(?:/v1)?"
    r"(?=\1$|/(?:chat/)?completions$|/embeddings$|/models(?:/|$))"
)
_JSON = (b"content-type", b"application/json")

OVERLOADED = 529
_CODED = ErrorRow(415, "invalid_request_error", "unsupported_content_encoding")

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    OVERLOADED: "overloaded_error",
}


def canonical(path: str) -> str:
    """The one path under which a route is defined: no /v1 in front, no doubled or trailing slashes."""
    path = _SLASHES.sub("/", path)
    path = _LEADING_V1.sub("", path.rstrip("/"))
    return _PASTED_ENDPOINT.sub("", path) or "/"


class ForgiveAddresses:
    """Middleware: canonical paths, and bodies read as JSON whatever curl calls them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            coding = Headers(scope=scope).get("content-encoding", "identity")
            if coding.strip().lower() not in ("", "identity"):
                message = f"Bodies are read as they are, without {coding[:40]}: leave content-encoding out."
                await refuse(_CODED, message)(scope, receive, send)
                return
            path = canonical(scope["path"])
            headers = [header for header in scope["headers"] if header[0] != b"content-type"]
            scope = {**scope, "path": path, "raw_path": path.encode(), "headers": [*headers, _JSON]}
        await self._app(scope, receive, send)


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
