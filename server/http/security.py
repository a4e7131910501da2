"""Who may come in: Host, Origin, API keys, body size. ASGI middlewares that look at nothing but scope and headers.

Denied by default: no list of protected paths exists, only the public ones, which tell counts and states.
"""

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, get_type_hints
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ErrorRow, InvalidRequest
from server.http.binding import is_loopback
from server.http.dialects import refuse
from server.limits import MAX_BODY_VALUES

PUBLIC_PATHS = frozenset({"/health", "/metrics"})
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# How containers of Docker Desktop and Podman call the machine they run on; no public name server answers for it.
CONTAINER_NAMES = frozenset({"host.docker.internal", "host.containers.internal"})

_HOST = ErrorRow(403, "invalid_request_error", "host_not_allowed")
_ORIGIN = ErrorRow(403, "invalid_request_error", "origin_not_allowed")
_KEY = ErrorRow(401, "authentication_error", "invalid_api_key", {"www-authenticate": "Bearer"})
_TOO_LARGE = ErrorRow(413, "invalid_request_error", "request_too_large", {"connection": "close"})

# What the library takes for a name: it reads [::1].evil.com as ::1.
_NETLOC = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@\s]*)(:[0-9]*)?")
_EXPOSED = "x-request-id, request-id, retry-after"
_METHODS = "GET, POST, DELETE, OPTIONS, HEAD"
_MAX_MIRRORED_CHARACTERS = 4096


class HostGuard:
    """Against DNS rebinding: a page of some site whose name suddenly points to this machine."""

    def __init__(self, app: ASGIApp, *, bound_to: str, allowed: Sequence[str]) -> None:
        self._app = app
        self._open = "*" in allowed or not (is_loopback(bound_to) or allowed)
        self._allowed = (
            LOCAL_NAMES | CONTAINER_NAMES | {bound_to.strip("[]").lower(), *(each.lower() for each in allowed)}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._open and not self._knows(Headers(scope=scope).getlist("host")):
            message = "This Host header is not allowed. Names other than localhost go into BRAMLEY_ALLOWED_HOSTS."
            await refuse(_HOST, message)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _knows(self, hosts: list[str]) -> bool:
        return len(hosts) == 1 and _hostname(f"//{hosts[0]}") in self._allowed


class OriginGuard:
    """Web pages of other sites may neither use the model nor read answers; allowed ones get their CORS headers."""

    def __init__(self, app: ASGIApp, *, allowed: Sequence[str]) -> None:
        self._app = app
        self._any = "*" in allowed
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)
        self._beginnings = tuple(each[:-1].lower() for each in allowed if each.endswith("*") and "://" in each)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None:
            await self._plain(scope, receive, send)
        elif not self._knows(origin, headers.get("host", "")):
            if scope["method"] in ("GET", "HEAD"):  # harmless: without CORS headers the page cannot read the answer
                await self._app(scope, receive, send)
            else:
                message = (
                    f"Pages of {origin[:100]} may not use this server. Start it with --allowed-origin and this "
                    "origin, or set BRAMLEY_ALLOWED_ORIGINS; a * at its end allows all that begin so."
                )
                await refuse(_ORIGIN, message)(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await _preflight(origin, headers)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_cors(send, origin))

    async def _plain(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            await Response(status_code=204, headers={"allow": _METHODS})(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _knows(self, origin: str, host: str) -> bool:
        parts = origin.lower().split("://", 1)
        is_web = parts[0] in ("http", "https") and len(parts) == 2
        return (
            self._any
            or origin.lower() in self._allowed
            or origin.lower().startswith(self._beginnings)
            or (is_web and parts[1] == host.lower())
            or (is_web and _hostname(origin) in LOCAL_NAMES)
        )


class KeyGuard:
    """Ask for an API key everywhere but on the public paths. Without keys everybody passes, whatever they send."""

    def __init__(self, app: ASGIApp, *, keys: Collection[str]) -> None:
        self._app = app
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] != "http" or not self._digests or scope["path"] in PUBLIC_PATHS
        if is_open or self._opens(Headers(scope=scope)):
            await self._app(scope, receive, send)
        else:
            await refuse(_KEY, "The API key is missing or wrong.")(scope, receive, send)

    def _opens(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        offered = [headers.get("x-api-key"), headers.get("api-key"), token if scheme.lower() == "bearer" else None]
        digests = [_digest(key.strip()) for key in offered if key]
        # Every pair is compared, each in constant time, so that the time taken tells nothing.
        return sum(hmac.compare_digest(one, other) for one in digests for other in self._digests) > 0


class BodyLimit:
    """Refuse bodies over a size in bytes, by their declared length or while they arrive."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared[:20]) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        try:
            await self._app(scope, self._counting(receive), send)
        except _BodyTooLarge:
            await self._refuse(scope, receive, send)
        except _LeftWhileSending:
            return  # nobody reads an answer; the log tells of it

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"The body is larger than the {self._max_bytes} bytes this server accepts."
        await refuse(_TOO_LARGE, message)(scope, receive, send)

    def _counting(self, receive: Receive) -> Receive:
        received_bytes = 0
        is_whole = False

        async def counted() -> Message:
            nonlocal received_bytes, is_whole
            message = await receive()
            if message["type"] == "http.disconnect" and not is_whole:
                raise _LeftWhileSending
            is_whole = not message.get("more_body", False)
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._max_bytes:
                raise _BodyTooLarge
            return message

        return counted


class _BodyTooLarge(BaseException):
    """Passes through a framework that turns every Exception of a body into its own answer."""


class _LeftWhileSending(BaseException):
    """The client has closed its connection before its request was whole. Passes through the framework as above."""


def _preflight(origin: str, headers: Headers) -> Response:
    response = Response(
        status_code=204, headers={"access-control-allow-methods": _METHODS, "access-control-max-age": "86400"}
    )
    _allow(response.headers, origin)
    if asked := headers.get("access-control-request-headers"):
        response.headers["access-control-allow-headers"] = asked[:_MAX_MIRRORED_CHARACTERS]
    if headers.get("access-control-request-private-network") == "true":
        response.headers["access-control-allow-private-network"] = "true"
    return response


def _with_cors(send: Send, origin: str) -> Send:
    async def send_with_cors(message: Message) -> None:
        if message["type"] == "http.response.start":
            _allow(MutableHeaders(scope=message), origin)
        await send(message)

    return send_with_cors


def _allow(headers: MutableHeaders, origin: str) -> None:
    headers["access-control-allow-origin"] = origin
    headers["access-control-allow-credentials"] = "true"
    headers["access-control-expose-headers"] = _EXPOSED
    headers.add_vary_header("Origin")


def _hostname(url: str) -> str | None:
    """The name in a URL, in lower case, without port, user or brackets; None for what is not one."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is not a number
    except ValueError:
        return None
    if _NETLOC.fullmatch(parts.netloc) is None:
        return None
    plain = parts.path in ("", "/") and not parts.query and not parts.fragment and "@" not in parts.netloc
    return parts.hostname if plain else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


LARGE_BYTES = 64 * 2**10
FEW_VALUES = 100_000  # which are read within 50 ms
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


def read_json(body: bytes, few_values: int = FEW_VALUES) -> Any:
    """The value of a JSON text, read so that other threads go on.

    few_values: so many are read at once
    Raises ValueError, RecursionError, InvalidRequest.
    """
    most_values = sum(map(body.count, (b",", b"[", b"{")))
    if most_values <= few_values:
        return json.loads(body)
    num_values = 0
    decoder: Any = json.JSONDecoder()

    def counting(scan: Callable[[str, int], Any]) -> Callable[[str, int], Any]:
        def scan_one(text: str, index: int) -> Any:
            nonlocal num_values
            num_values += 1
            if num_values > MAX_BODY_VALUES:
                raise InvalidRequest(f"The body holds more than {MAX_BODY_VALUES} values.")
            return scan(text, index)

        return scan_one

    # The library's own parts that are written in Python: those in C let no other thread run before they are done.
    decoder.parse_array = lambda start, scan: json.decoder.JSONArray(start, counting(scan))  # type: ignore[attr-defined]
    decoder.parse_object = lambda start, strict, scan, *rest: json.decoder.JSONObject(  # type: ignore[attr-defined]
        start, strict, counting(scan), *rest
    )
    decoder.scan_once = json.scanner.py_make_scanner(decoder)  # type: ignore[attr-defined]
    return decoder.decode(body.decode())


def read_body(model: type[BaseModel], body: bytes) -> BaseModel:
    """The request in a body. Raises what the framework raises for its own: RequestValidationError, HTTPException."""
    try:
        value = read_json(body)
    except json.JSONDecodeError as error:
        raise RequestValidationError([{"type": "json_invalid", "loc": ("body", error.pos), "msg": error.msg}]) from None
    except (ValueError, RecursionError):
        raise HTTPException(400) from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in errors]) from None
