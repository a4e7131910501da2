"""From a request's model and plan to its answer: one JSON object, or server-sent events. Knows no API's fields."""

import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import EngineError
from engine.requests import PrefixNote
from server.errors import ApiError, envelope_of
from server.generation.continuation import Delta
from server.generation.generation import Choice, Generation, GenerationPlan, fold
from server.http.traffic import ClientLeft, unless_client_leaves
from server.models.registry import Registry
from server.models.served_model import ServedModel
from server.monitoring.metrics import Metrics, Stopwatch
from server.wire.sampling import StreamOptions
from server.wire.usage import Usage

_EVENT_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
_DONE = b"data: [DONE]\n\n"
log = logging.getLogger("bramley.http")


class WholeReply(Protocol):
    """The shape of an answer that is never streamed. reply_id: the name of the request's work in the log and worker"""

    reply_id: str
    num_choices: int

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Mapping[str, Any]:
        """The answer that is not streamed."""


class Reply(WholeReply, Protocol):
    """The shape of one API's answers, made from the same deltas whether streamed or whole."""

    def events(self, delta: Delta, usage: Callable[[], Usage]) -> bytes:
        """The events of one delta. usage: the tokens so far"""

    def end(self, usage: Usage) -> Iterable[bytes]:
        """The events after the last delta."""

    def failure(self, error: Exception) -> bytes:
        """The event that ends the stream when something fails after the first event."""


class ChunkedReply:
    """The part of a Reply that completions and chat share: nameless events, usage on demand, an end mark."""

    def __init__(self, options: StreamOptions) -> None:
        self._options = options

    @abstractmethod
    def chunks(self, delta: Delta) -> Iterable[dict[str, Any]]:
        """The chunks of one delta, without usage."""

    @abstractmethod
    def usage_chunk(self, usage: Usage) -> Mapping[str, Any]:
        """The chunk after the last delta, for clients that asked for usage."""

    def events(self, delta: Delta, usage: Callable[[], Usage]) -> bytes:
        """The chunks of one delta as events."""
        extra = {"usage": usage()} if self._options.continuous_usage_stats else {}
        return b"".join(event({**chunk, **extra}) for chunk in self.chunks(delta))

    def end(self, usage: Usage) -> Iterator[bytes]:
        """Usage, where it was asked for, and the end mark."""
        if self._options.include_usage:
            yield event(self.usage_chunk(usage))
        yield _DONE

    def failure(self, error: Exception) -> bytes:
        """An error in the place of a chunk, and the end mark."""
        return event(envelope_of(error)) + _DONE


def requested_model(request: Request, name: str) -> ServedModel:
    """The model of a request, noted for the log; an empty name means the default. Raises ModelNotFound."""
    registry: Registry = request.app.state.registry
    model = registry.find(name)
    request.state.record["model"] = model.name
    return model


async def loaded(request: Request, model: ServedModel, *kinds: str) -> Mapping[str, Any]:
    """The fields of engine.ModelInfo, once the model is in memory. Raises WrongModelKind and ClientLeft."""
    return await unless_client_leaves(request.receive, model.expect(*kinds))


def json_answer(value: Any) -> Response:
    """One JSON object."""
    return Response(msgspec.json.encode(value), media_type="application/json")


async def answer(request: Request, model: ServedModel, plan: GenerationPlan, reply: Reply, *, stream: bool) -> Response:
    """Generate, and answer with events, or whole.

    The first event is there before the status is sent, so that whatever can fail, fails with a proper status.
    """
    if not stream:
        return await answer_whole(request, model, plan, reply)
    generation = _generation(request, model, plan, reply)
    events = _events(request, generation, reply)
    first = await unless_client_leaves(request.receive, anext(events))
    return EventStream(first, events, reply.failure, prefix_header(request, generation.prefix))


async def answer_whole(request: Request, model: ServedModel, plan: GenerationPlan, reply: WholeReply) -> Response:
    """Generate, and answer when all is there."""
    generation = _generation(request, model, plan, reply)
    return await unless_client_leaves(request.receive, _whole(request, generation, reply))


def _generation(request: Request, model: ServedModel, plan: GenerationPlan, reply: WholeReply) -> Generation:
    request.state.record["generation"] = reply.reply_id
    metrics: Metrics = request.app.state.metrics
    stopwatch = Stopwatch(metrics.of(model.name), request.state.started, model.prefill_rate)
    return Generation(reply.reply_id, model, plan, stopwatch)


def prefix_header(request: Request, note: PrefixNote | None) -> dict[str, str]:
    """The number of cached tokens, and the first token that differs from the cache: as ids, never as text."""
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
    """A server-sent event whose name is the type of its data."""
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
