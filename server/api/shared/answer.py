"""From a request's model and plan to its answer: one JSON object, or server-sent events. Knows no API's fields."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engine.requests import PrefixNote
from server.api.shared.event_stream import EventStream, comment, event
from server.errors import envelope_of
from server.generation.continuation import Delta
from server.generation.generation import Choice, Generation, GenerationPlan, fold
from server.http.traffic import unless_client_leaves
from server.models.registry import Registry
from server.models.served_model import ServedModel
from server.monitoring.metrics import Metrics, Stopwatch
from server.wire.sampling import StreamOptions
from server.wire.usage import Usage

# What fails within this time fails with a status of its own; then the status of a stream is sent.
_STATUS_SECONDS = 1.0
_DONE = b"data: [DONE]\n\n"
Prepare = Callable[[], Awaitable[GenerationPlan]]


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
        """The event that ends the stream when something fails after the status has been sent."""

    def sign(self, progress: str, usage: Usage | None) -> bytes:
        """The sign of life while there is no delta. progress: in words; usage: None before the prompt is encoded"""


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
        extra: dict[str, Any] = {"usage": usage()} if self._options.continuous_usage_stats else {}
        if self._options.include_usage and not extra:
            extra = {"usage": None}
        return b"".join(event({**chunk, **extra}) for chunk in self.chunks(delta))

    def end(self, usage: Usage) -> Iterator[bytes]:
        """Usage, where it was asked for, and the end mark."""
        if self._options.include_usage:
            yield event(self.usage_chunk(usage))
        yield _DONE

    def failure(self, error: Exception) -> bytes:
        """An error in the place of a chunk, and the end mark."""
        return event(envelope_of(error)) + _DONE

    def sign(self, progress: str, usage: Usage | None) -> bytes:
        """A comment, which is no chunk to any client."""
        del usage
        return comment(progress)


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


async def answer(request: Request, model: ServedModel, prepare: Prepare, reply: Reply, *, stream: bool) -> Response:
    """Generate, and answer with events, or whole.

    prepare: loads the model and makes the plan; it may tell the reply what that has to know
    Whatever fails before the first event, and within a second, fails with a proper status.
    """
    if not stream:
        return await unless_client_leaves(request.receive, _prepared(request, model, prepare, reply))
    work = _StreamedAnswer(request, model, prepare, reply)
    silence_seconds = request.app.state.settings.stream_ping_seconds
    events = work.events()
    first = asyncio.ensure_future(anext(events))
    try:
        patience = min(_STATUS_SECONDS, silence_seconds) or None
        await unless_client_leaves(request.receive, asyncio.wait((first,), timeout=patience))
        all_events = _continued(first.result(), events) if first.done() else _late(first, events, work.sign)
    except BaseException:
        await _end(first)
        raise
    return EventStream(all_events, reply.failure, work.sign, silence_seconds, work.headers())


async def answer_whole(request: Request, model: ServedModel, plan: GenerationPlan, reply: WholeReply) -> Response:
    """Generate, and answer when all is there."""
    generation = _generation(request, model, plan, reply)
    return await unless_client_leaves(request.receive, _whole(request, generation, reply))


async def _prepared(request: Request, model: ServedModel, prepare: Prepare, reply: WholeReply) -> Response:
    return await _whole(request, _generation(request, model, await prepare(), reply), reply)


def _generation(request: Request, model: ServedModel, plan: GenerationPlan, reply: WholeReply) -> Generation:
    request.state.record["generation"] = reply.reply_id
    metrics: Metrics = request.app.state.metrics
    stopwatch = Stopwatch(metrics.of(model.name), request.state.started, model.prefill_rate)
    if not request.app.state.settings.trust_priorities:
        plan = replace(plan, priority=max(plan.priority, 0))
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


class _StreamedAnswer:
    """One streamed answer: its events, and the signs of life between them. generation: None until there is a plan"""

    def __init__(self, request: Request, model: ServedModel, prepare: Prepare, reply: Reply) -> None:
        self._request, self._model, self._prepare, self._reply = request, model, prepare, reply
        self._generation: Generation | None = None

    async def events(self) -> AsyncGenerator[bytes, None]:
        """All events of the answer. The first one waits for the model, the queue and the prefill."""
        generation = _generation(self._request, self._model, await self._prepare(), self._reply)
        self._generation = generation
        try:
            async with aclosing(generation.deltas()) as deltas:
                async for delta in deltas:
                    if data := self._reply.events(delta, generation.usage):
                        yield data
            for data in self._reply.end(generation.usage()):
                yield data
        finally:
            _note(self._request, generation)

    def sign(self) -> bytes:
        """A sign of life that says what the answer waits for."""
        if self._generation is None:
            return self._reply.sign(self._model.progress(), None)
        return self._reply.sign(self._generation.progress(), self._generation.usage())

    def headers(self) -> dict[str, str]:
        """What is known about the prefix cache when the status is sent."""
        return {} if self._generation is None else prefix_header(self._request, self._generation.prefix)


async def _continued(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async with aclosing(rest):
        async for data in rest:
            yield data


async def _late(
    first: "asyncio.Future[bytes]", rest: AsyncGenerator[bytes, None], sign: Callable[[], bytes]
) -> AsyncGenerator[bytes, None]:
    """A sign of life, and then all events. Leaving early ends the work on the first of them."""
    try:
        yield sign()
        yield await first
        async with aclosing(rest):
            async for data in rest:
                yield data
    finally:
        await _end(first)


async def _end(work: "asyncio.Future[bytes]") -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


def _note(request: Request, generation: Generation) -> None:
    usage = generation.usage()
    request.state.record.update(
        prompt=usage["prompt_tokens"],
        completion=usage["completion_tokens"],
        cached=usage["prompt_tokens_details"]["cached_tokens"],
        **generation.times(),
    )
