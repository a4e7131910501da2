"""Server-sent events as an HTTP response, with signs of life while there are none. Knows no API and no model."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from time import monotonic
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import EngineError
from server.errors import ApiError
from server.http.traffic import ClientLeft, unless_client_leaves

_EVENT_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
log = logging.getLogger("bramley.http")


def event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event: a line of JSON, line feeds only."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def named_event(data: Mapping[str, Any]) -> bytes:
    """A server-sent event whose name is the type of its data."""
    return f"event: {data['type']}\n".encode() + event(data)


def comment(text: str) -> bytes:
    """A line that clients skip, and that keeps them and whatever lies between from giving up."""
    return f": {text}\n\n".encode()


class EventStream(Response):
    """Events as they come, one per write. When the client leaves, the work behind them is cancelled.

    failure: the event that tells of an error after the status has been sent
    sign: the sign of life that is sent when no event has come for `silence_seconds`; 0 sends none
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        failure: Callable[[Exception], bytes],
        sign: Callable[[], bytes],
        silence_seconds: float,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(headers={**_EVENT_HEADERS, **headers})
        self._events = events
        self._failure = failure
        self._sign = sign
        self._silence_seconds = silence_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_client_leaves(receive, self._write(send))
        except ClientLeft:
            scope["state"]["record"]["left"] = True

    async def _write(self, send: Send) -> None:
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        writer = _Writer(send)
        signs = asyncio.create_task(writer.keep_alive(self._sign, self._silence_seconds))
        try:
            async with aclosing(_ending_well(self._events, self._failure)) as events:
                async for data in events:
                    await writer.write(data)
        finally:
            signs.cancel()
            await asyncio.gather(signs, return_exceptions=True)
        await send({"type": "http.response.body", "body": b""})


class _Writer:
    """Writes events and signs of life, one at a time, and knows how long nothing was written."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = asyncio.Lock()
        self._written_at = monotonic()

    async def write(self, data: bytes) -> None:
        """Write one event."""
        async with self._lock:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            self._written_at = monotonic()

    async def keep_alive(self, sign: Callable[[], bytes], silence_seconds: float) -> None:
        """Write a sign of life whenever nothing else was written for so long."""
        left = silence_seconds
        while left:
            await asyncio.sleep(left)
            async with self._lock:
                # Made inside of the lock: an event that is numbered before the sign is also written before it.
                left = self._written_at + silence_seconds - monotonic()
                if left <= 0:
                    await self._send({"type": "http.response.body", "body": sign(), "more_body": True})
                    self._written_at, left = monotonic(), silence_seconds


async def _ending_well(
    events: AsyncGenerator[bytes, None], failure: Callable[[Exception], bytes]
) -> AsyncGenerator[bytes, None]:
    """The status is sent: a failure from here on is an event, and the stream still has its end."""
    try:
        async with aclosing(events):
            async for data in events:
                yield data
    except (ApiError, EngineError) as error:
        yield failure(error)
    except Exception as error:  # the outermost place that can still tell the client
        log.exception("a stream failed")
        yield failure(error)
