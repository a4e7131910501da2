"""Forgive the addresses and content types that clients send: every route answers with and without /v1. ASGI only."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_SLASHES = re.compile(r"/{2,}")
_LEADING_V1 = re.compile(r"^(?:/v1(?=/|$))+")
# A full endpoint address given as base address, with the client's own path behind it.
_PASTED_ENDPOINT = re.compile(
    r"^(/chat/completions|/completions|/embeddings|/messages)(?:/v1)?"
    r"(?=\1$|/(?:chat/)?completions$|/embeddings$|/models(?:/|$))"
)
_JSON = (b"content-type", b"application/json")


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
            path = canonical(scope["path"])
            headers = [header for header in scope["headers"] if header[0] != b"content-type"]
            scope = {**scope, "path": path, "raw_path": path.encode(), "headers": [*headers, _JSON]}
        await self._app(scope, receive, send)
