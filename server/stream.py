"""Answers on the wire: one JSON object, or server-sent events; and clients that leave. Knows no model and no text."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import EngineError
from server.continuation import Delta
from server.errors import ApiError, envelope_of
from server.generation import Choice, Generation, fold
from server.schemas.sampling import StreamOptions
from server.schemas.usage import Usage

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
_EVENT_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
log = logging.getLogger("bramley.http")


class ClientLeft(Exception):
    """Nobody is there to read the answer."""


class Reply(Protocol):
    """The shape of one API's answers, made from the same deltas whether streamed or whole."""

    num_choices: int

    def chunks(self, delta: Delta) -> Iterable[dict[str, Any]]:
        """The events of one delta."""

    def usage_chunk(self, usage: Usage) -> Mapping[str, Any]:
        """The event after the last delta, for those who asked."""

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Mapping[str, Any]:
        """The answer that is not streamed."""


async def respond(request: Request, generation: Generation, reply: Reply, options: StreamOptions | None) -> Response:
    """Answer with events, or whole when there are no stream options.

    The first event is there before the status is sent, so that whatever can fail, fails with a proper status.
    """
    request.state.record["generation"] = generation.generation_id
    if options is None:
        return await unless_client_leaves(request.receive, _whole(request, generation, reply))
    events = _events(request, generation, reply, options)
    first = await unless_client_leaves(request.receive, anext(events))
    return EventStream(first, events)


async def _whole(request: Request, generation: Generation, reply: Reply) -> Response:
    async with aclosing(generation.deltas()) as deltas:
        choices = await fold(deltas, reply.num_choices)
    _note(request, generation.usage())
    body = msgspec.json.encode(reply.whole(choices, generation.usage()))
    return Response(body, media_type="application/json")


async def _events(
    request: Request, generation: Generation, reply: Reply, options: StreamOptions
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(generation.deltas()) as deltas:
            async for delta in deltas:
                extra = {"usage": generation.usage()} if options.continuous_usage_stats else {}
                yield b"".join(event({**chunk, **extra}) for chunk in reply.chunks(delta))
        if options.include_usage:
            yield event(reply.usage_chunk(generation.usage()))
        yield DONE
    finally:
        _note(request, generation.usage())


def _note(request: Request, usage: Usage) -> None:
    cached_tokens = usage["prompt_tokens_details"]["cached_tokens"]
    request.state.record.update(
        prompt=usage["prompt_tokens"], completion=usage["completion_tokens"], cached=cached_tokens
    )


def event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event: a line of JSON, line feeds only."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


class EventStream(Response):
    """Events as they come, one per write. When the client leaves, the work behind them is cancelled."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers=_EVENT_HEADERS)
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_client_leaves(receive, self._write(send))
        except ClientLeft:
            scope["state"]["record"]["left"] = True

    async def _write(self, send: Send) -> None:
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async with aclosing(_ending_well(self._rest)) as events:
            async for data in events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _ending_well(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The status is sent: a failure from here on is an event, and the stream still has its end."""
    try:
        async with aclosing(events):
            async for data in events:
                yield data
    except (ApiError, EngineError) as error:
        yield event(envelope_of(error)) + DONE
    except Exception as error:  # the outermost place that can still tell the client
        log.exception("a stream failed")
        yield event(envelope_of(error)) + DONE


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
