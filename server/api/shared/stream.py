"""Answers on the wire: one JSON object, or server-sent events. Knows no model and no text."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import EngineError
from engine.requests import PrefixNote
from server.errors import ApiError
from server.generation.continuation import Delta
from server.generation.generation import Choice, Generation, fold
from server.http.client_left import ClientLeft, unless_client_leaves
from server.models.served_model import ServedModel
from server.monitoring.metrics import Metrics
from server.monitoring.stopwatch import Stopwatch
from server.wire.usage import Usage

_EVENT_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
log = logging.getLogger("bramley.http")


class WholeReply(Protocol):
    """The shape of an answer that is never streamed."""

    num_choices: int

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Mapping[str, Any]:
        """The answer that is not streamed."""


class Reply(WholeReply, Protocol):
    """The shape of one API's answers, made from the same deltas whether streamed or whole."""

    def events(self, delta: Delta, usage: Callable[[], Usage]) -> bytes:
        """What is sent for one delta. usage: the tokens so far"""

    def end(self, usage: Usage) -> Iterable[bytes]:
        """What is sent after the last delta."""

    def failure(self, error: Exception) -> bytes:
        """What is sent instead when something fails after the first event."""


async def respond(request: Request, generation: Generation, reply: Reply, *, stream: bool) -> Response:
    """Answer with events, or whole.

    The first event is there before the status is sent, so that whatever can fail, fails with a proper status.
    """
    if not stream:
        return await respond_whole(request, generation, reply)
    request.state.record["generation"] = generation.generation_id
    events = _events(request, generation, reply)
    first = await unless_client_leaves(request.receive, anext(events))
    return EventStream(first, events, reply.failure, prefix_header(request, generation.prefix))


async def respond_whole(request: Request, generation: Generation, reply: WholeReply) -> Response:
    """Answer when all is there."""
    request.state.record["generation"] = generation.generation_id
    return await unless_client_leaves(request.receive, _whole(request, generation, reply))


def stopwatch(request: Request, model: ServedModel) -> Stopwatch:
    """One that began to run when the request arrived."""
    metrics: Metrics = request.app.state.metrics
    return Stopwatch(metrics.of(model.name), request.state.started, model.prefill_rate)


def prefix_header(request: Request, note: PrefixNote | None) -> dict[str, str]:
    """How many tokens were found, and the first that differs from what is stored: as ids, never as text."""
    if note is None:
        return {}
    parts = [f"hit={note.cached_tokens}"]
    if note.asked_token is not None:
        parts.append(f"differs-at={note.cached_tokens}")
        if request.app.state.tells_stored_tokens:
            parts.append(f"stored={'none' if note.stored_token is None else note.stored_token}")
        parts.append(f"asked={note.asked_token}")
    return {"x-bramley-prefix": "; ".join(parts)}


async def _whole(request: Request, generation: Generation, reply: WholeReply) -> Response:
    async with aclosing(generation.deltas()) as deltas:
        choices = await fold(deltas, reply.num_choices)
    _note(request, generation)
    body = msgspec.json.encode(reply.whole(choices, generation.usage()))
    return Response(body, headers=prefix_header(request, generation.prefix), media_type="application/json")


async def _events(request: Request, generation: Generation, reply: Reply) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(generation.deltas()) as deltas:
            async for delta in deltas:
                if data := reply.events(delta, generation.usage):
                    yield data
        for data in reply.end(generation.usage()):
            yield data
    finally:
        _note(request, generation)


def _note(request: Request, generation: Generation) -> None:
    usage = generation.usage()
    request.state.record.update(
        prompt=usage["prompt_tokens"],
        completion=usage["completion_tokens"],
        cached=usage["prompt_tokens_details"]["cached_tokens"],
        **generation.times(),
    )


def event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event: a line of JSON, line feeds only."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def named_event(data: Mapping[str, Any]) -> bytes:
    """The same under the name that the data has as its type."""
    return f"event: {data['type']}\n".encode() + event(data)


class EventStream(Response):
    """Events as they come, one per write. When the client leaves, the work behind them is cancelled."""

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        failure: Callable[[Exception], bytes],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(headers={**_EVENT_HEADERS, **headers})
        self._failure = failure
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
        async with aclosing(_ending_well(self._rest, self._failure)) as events:
            async for data in events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


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
