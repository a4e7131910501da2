"""The web pages: files of server/web, and the headers that keep them from doing more than they are for. ASGI only.

A page may load what lies beside it and talk to this server, and nothing else: no inline script or style, no other
host, no frame around it, no way to make markup of text. The files are the same everywhere: no key is asked for them.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER = Path(__file__).parents[1] / "web"
# Addresses that browsers get a page at. The first two are also routes of the API for whoever wants no HTML.
_PAGES = {"/": "index.html", "/status": "status.html", "/docs": "docs.html"}
_API_ROUTES = frozenset({"/", "/status"})
_FILES = "/web/"
# Named here, because what Python knows of them differs between its versions and the machines it runs on.
_CONTENT_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".json": "application/json",
}
_CONTENT_SECURITY_POLICY = "; ".join((
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "font-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
))  # fmt: skip
_HEADERS = {
    "content-security-policy": _CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Looked up again every time, so that a page and its scripts are of one version.
    "cache-control": "no-cache",
    "vary": "accept",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    content_type: str
    etag: str


class Pages:
    """Middleware: answers what a browser asks for to show, and passes on everything else.

    It stands before addresses are forgiven, because /status is a page and /v1/status is not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = _asked_for(scope) if scope["type"] == "http" else None
        file = None if name is None else _files().get(name)
        await (self._app if file is None else _answer(scope, file))(scope, receive, send)


def _asked_for(scope: Scope) -> str | None:
    """The name of the file that is wanted, or None where it is the API that is asked."""
    path: str = scope["path"]
    if scope["method"] not in ("GET", "HEAD"):
        return None
    if path.startswith(_FILES):
        return path.removeprefix(_FILES)
    wants_html = "text/html" in Headers(scope=scope).get("accept", "")
    return None if path in _API_ROUTES and not wants_html else _PAGES.get(path)


def _answer(scope: Scope, file: _File) -> Response:
    headers = {**_HEADERS, "etag": file.etag}
    if Headers(scope=scope).get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.content_type)


@cache
def _files() -> dict[str, _File]:
    """Every file below the folder by its path in it; nothing else can be asked for, whatever a path looks like."""
    return {path.relative_to(FOLDER).as_posix(): _read(path) for path in FOLDER.rglob("*") if path.is_file()}


def _read(path: Path) -> _File:
    content = path.read_bytes()
    kind = _CONTENT_TYPES.get(path.suffix, "text/plain")
    return _File(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
