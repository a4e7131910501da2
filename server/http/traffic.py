"""Requests under way: their ids and log lines, the models they hold, and clients that leave before the answer.

Logs counts and times, never the words of people.
"""

import asyncio
import logging
import re
from collections.abc import Coroutine, Mapping, MutableMapping
from time import monotonic
from typing import Any, TypeVar
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ShuttingDown
from server.http.dialects import error_response, speaks_anthropic
from server.models.residency import Residency, holding

CLIENT_LEFT = 499
T = TypeVar("T")
ALWAYS_OPEN = frozenset({"/health", "/v1/health", "/metrics"})

log = logging.getLogger("bramley.requests")
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class ClientLeft(Exception):
    """The client has closed its connection: nobody is there to read the answer."""


class Traffic:
    """The outermost middleware. While `draining`, new requests are turned away and running ones go on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.num_running = 0
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = monotonic()
        request_id = _request_id(Headers(scope=scope))
        record: dict[str, Any] = {"status": CLIENT_LEFT}
        scope.setdefault("state", {}).update(
            request_id=request_id, record=record, draining=self.draining, started=started
        )
        app = error_response(ShuttingDown()) if self.draining and scope["path"] not in ALWAYS_OPEN else self._app
        self.num_running += 1
        try:
            await app(scope, receive, _with_id(send, _id_headers(scope["path"], request_id), record))
        finally:
            self.num_running -= 1
            _write_line(scope, request_id, record, round((monotonic() - started) * 1000))


class HoldModels:
    """Middleware: a request holds its models until its answer has been sent, streams to their last event."""

    def __init__(self, app: ASGIApp, residency: Residency) -> None:
        self._app = app
        self._residency = residency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with holding(self._residency):
            await self._app(scope, receive, send)


def _request_id(headers: Headers) -> str:
    """The client's own id where it is fit for a log, or a new one."""
    offered = headers.get("x-request-id", "")
    return offered if _SANE_ID.fullmatch(offered) else f"req_{uuid4().hex}"


def _id_headers(path: str, request_id: str) -> dict[str, str]:
    """Anthropic's clients look for another name."""
    return {"x-request-id": request_id, **({"request-id": request_id} if speaks_anthropic(path) else {})}


def _with_id(send: Send, id_headers: Mapping[str, str], record: MutableMapping[str, Any]) -> Send:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            record["status"] = message["status"]
            MutableHeaders(scope=message).update(id_headers)
        await send(message)

    return send_with_id


def _write_line(scope: Scope, request_id: str, record: MutableMapping[str, Any], duration_ms: int) -> None:
    status = record.pop("status")
    details = "".join(f" {name}={value}" for name, value in record.items())
    path = clean(scope["path"])
    fields = {"request_id": request_id, "method": scope["method"], "path": path, "status": status}
    fields |= {"duration_ms": duration_ms, **record}
    log.info(
        "%s %s %s %s %d ms%s",
        *(request_id, scope["method"], path, status, duration_ms, details),
        extra={"fields": fields},
    )


def clean(text: str, max_characters: int = 200) -> str:
    """Text from outside in a form that cannot forge a log line."""
    return "".join(character if character.isprintable() else "?" for character in text[:max_characters])


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes its connection. Raises ClientLeft."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_departure(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
