"""The parent's handle on one model's worker process: start it, talk to it, notice its death, start it again.

Knows frames and silence; knows nothing of HTTP or text.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any, Literal
from uuid import uuid4

import msgspec

from engine.embedding.encoding import EncodingOutput, EncodingRequest
from engine.requests import GenerationRequest, StepOutput
from engine.settings import EngineSettings, EngineStats
from server.errors import ModelLoading, ModelUnavailable, Overloaded, RequestRefused, ShuttingDown, WorkerDied
from server.worker import protocol
from server.worker.process import WORKER_COMMAND, WorkerProcess, files_of
from server.worker.retry_after import RetryAfter

CRASH_LIMIT = 3
CRASH_WINDOW_SECONDS = 600.0
TICK_SECONDS = 1.0

State = Literal["stopped", "loading", "ready", "stuck", "failed"]
log = logging.getLogger("bramley.worker")
_decoder: "msgspec.msgpack.Decoder[protocol.ToParent]" = msgspec.msgpack.Decoder(protocol.ToParent)


@dataclass(frozen=True, slots=True)
class SupervisorLimits:
    """The longest queue and the longest silences that a supervisor accepts.

    max_queue: HTTP requests that wait or run
    load_seconds: longest wait of a request for its model
    stale_seconds, dead_seconds: silence after which a worker counts as stuck, and after which it is killed
    """

    max_queue: int = 1024
    load_seconds: float = 600.0
    stale_seconds: int = 8
    dead_seconds: int = 25


@dataclass(frozen=True, slots=True)
class Health:
    """The state of a worker, with a reason when it failed, and with bytes of weights while it loads.

    retry_seconds: until a failed one is tried again by a request; 0 where the next request does so
    """

    state: State
    reason: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    retry_seconds: int = 0


class Supervisor:
    """One model's worker: at most one process at a time, and the queues of those who wait for its answers.

    `spawn` needs no event loop, so that weights are read while the server is still being imported.

    engine: the settings of the worker's engine
    on_end: called when a worker has ended and no other takes its place before the model is asked for again
    """

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        command: Sequence[str] = WORKER_COMMAND,
        limits: SupervisorLimits | None = None,
        engine: EngineSettings | None = None,
    ) -> None:
        self.name = name
        self._path = path
        self._command = command
        self._limits = limits or SupervisorLimits()
        self.engine = engine or EngineSettings()
        self._child: WorkerProcess | None = None
        self._life: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ready: asyncio.Future[Mapping[str, Any]] | None = None
        self._progress = (0, 0)
        self._failure = ""
        self._silent_ticks = 0
        self._crashes: deque[float] = deque(maxlen=CRASH_LIMIT)
        self._crashed_files: tuple[tuple[str, int, int], ...] = ()
        self._queues: dict[str, asyncio.Queue[Any]] = {}
        self._num_open = 0
        self._retry_after = RetryAfter()
        self._stats: EngineStats | None = None
        self._closing = False
        self._unloading = False
        self.on_end: Callable[[], None] | None = None

    @property
    def process_id(self) -> int | None:
        """The worker's process, while there is one."""
        return None if self._child is None else self._child.process.pid

    @property
    def info(self) -> Mapping[str, Any] | None:
        """The fields of engine.ModelInfo, while the model is loaded."""
        ready = self._ready
        return ready.result() if ready and ready.done() and not ready.exception() else None

    @property
    def stats(self) -> EngineStats | None:
        """The engine's statistics, at most a second old; None before the model is loaded."""
        return self._stats

    def prefilled_tokens(self, request_id: str) -> int | None:
        """Tokens of a prompt that are prefilled, at most a second ago; None while the request is queued or decodes."""
        return None if self._stats is None else self._stats.prefilled.get(request_id)

    @property
    def health(self) -> Health:
        """The worker's state as its frames, or their absence, tell it."""
        if self._failure:
            return Health("failed", self._failure, retry_seconds=self._retry_seconds())
        if self._child is None:
            return Health("stopped")
        if self._silent_ticks >= self._limits.stale_seconds:
            return Health("stuck", f"no sign of life for {self._silent_ticks} s")
        return Health("ready") if self.info is not None else Health("loading", "", *self._progress)

    def spawn(self) -> WorkerProcess:
        """Start the process. Nobody listens to it before `start`."""
        self._child = WorkerProcess(self._command, self._path, self.engine)
        self._progress = (0, 0)
        self._failure = ""
        self._silent_ticks = 0
        return self._child

    def start(self) -> "asyncio.Future[Mapping[str, Any]]":
        """Have a process and listen to it. Raises ModelUnavailable when it has died too often."""
        if self._closing:
            raise ShuttingDown
        if self._ready is None:
            if self._is_broken():
                raise ModelUnavailable(self.name, self._failure, self._retry_seconds())
            self._ready = _unawaited_future()
            self._life = asyncio.create_task(self._live(self._child or self.spawn()))
        return self._ready

    async def ready(self) -> Mapping[str, Any]:
        """The fields of engine.ModelInfo once the model is loaded; starts a worker when there is none."""
        try:
            async with asyncio.timeout(self._limits.load_seconds):
                return await asyncio.shield(self.start())
        except TimeoutError:
            raise ModelLoading(self.name) from None

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncGenerator[StepOutput, None]:
        """Tokens of all requests in order of arrival, until each has finished or was cancelled.

        Leaving early cancels what still runs. Raises WorkerDied, RequestRefused or Overloaded.
        """
        names = {request.request_id for request in requests}
        frames = [protocol.encode_frame(protocol.Submit(request)) for request in requests]
        queue: asyncio.Queue[StepOutput | Exception] = self._open(names, frames)
        try:
            while not names.isdisjoint(self._queues):
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                if item.request_id not in self._queues:  # cancelled while its token was under way
                    continue
                if item.finish_reason or item.error:
                    del self._queues[item.request_id]
                yield item
        finally:
            self._leave()
            for name in names:
                self.cancel(name)

    async def encode(self, request: EncodingRequest) -> list[EncodingOutput]:
        """Vectors or scores of all inputs, in their order.

        Leaving early cancels what still runs. Raises WorkerDied, RequestRefused or Overloaded.
        """
        # Thousands of inputs take a while to pack; the loop goes on meanwhile.
        frame = await asyncio.to_thread(protocol.encode_frame, protocol.Encode(request))
        queue: asyncio.Queue[EncodingOutput | Exception] = self._open([request.request_id], [frame])
        outputs: list[EncodingOutput] = []
        try:
            while len(outputs) < len(request.inputs):
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                if item.error is not None:
                    raise RequestRefused(item.error_kind, item.error, request.param)
                outputs.append(item)
            del self._queues[request.request_id]
        finally:
            self._leave()
            self.cancel(request.request_id)
        return sorted(outputs, key=lambda output: output.index)

    async def cached_tokens(self, prompt_ids: Sequence[int]) -> int:
        """The number of a prompt's tokens in the prefix cache; 0 while there is no worker. Raises WorkerDied."""
        if self.info is None:
            return 0
        request_id = f"peek-{uuid4().hex}"
        queue: asyncio.Queue[int | Exception] = asyncio.Queue()
        self._queues[request_id] = queue
        try:
            self._send(protocol.encode_frame(protocol.Peek(request_id, tuple(prompt_ids))))
            answer = await queue.get()
        finally:
            del self._queues[request_id]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cancel(self, request_id: str) -> None:
        """Stop a request that nobody reads any more. Harmless when it has ended."""
        if self._queues.pop(request_id, None) is not None:
            with contextlib.suppress(WorkerDied):
                self._send(protocol.encode_frame(protocol.Cancel(request_id)))

    def forgive(self) -> None:
        """Forget earlier crashes: somebody wants the model to be tried again at once."""
        self._crashes.clear()

    async def close(self) -> None:
        """Fail whoever still waits, and leave no process behind."""
        self._closing = True
        self._fail_all(ShuttingDown())
        await self._end()

    async def unload(self) -> None:
        """End the process when nobody needs it; the next `start` begins anew."""
        self._unloading = True
        try:
            await self._end()
        finally:
            self._unloading = False

    async def _end(self) -> None:
        if self._life is not None:
            if self._writer is not None:
                self._writer.transport.abort()
            await self._life
        elif self._child is not None:
            await self._child.end()
            self._child = None

    def _open(self, names: Iterable[str], frames: Iterable[bytes]) -> "asyncio.Queue[Any]":
        """Send requests, and have one queue for the answers to them all."""
        if self._num_open >= self._limits.max_queue:
            raise Overloaded(self._limits.max_queue, self._retry_after.seconds(monotonic()))
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for frame in frames:
            self._send(frame)
        self._queues.update((name, queue) for name in names)
        if not self._num_open:
            self._retry_after.begin(monotonic())
        self._num_open += 1
        return queue

    def _leave(self) -> None:
        self._num_open -= 1
        self._retry_after.finish(monotonic())

    def _send(self, frame: bytes) -> None:
        if self._writer is None or self._writer.is_closing():
            raise WorkerDied(self.name)
        self._writer.write(frame)

    async def _live(self, first: WorkerProcess) -> None:
        """One child after the other, until one fails to load or too many have died."""
        child: WorkerProcess | None = first
        try:
            while child is not None:
                await self._listen(child)
                child = await self._succeed(child)
        finally:
            self._fail_all(WorkerDied(self.name))
            self._child = self._writer = self._life = self._ready = None
            if self.on_end is not None:
                self.on_end()

    async def _listen(self, child: WorkerProcess) -> None:
        """From the first frame of a child to its end, of which everybody is told at once."""
        reader, self._writer = await asyncio.open_unix_connection(sock=child.connection)
        if self._closing or self._unloading:
            self._writer.transport.abort()
        watch = asyncio.create_task(self._watch(child))
        try:
            async for message in _messages(reader):
                self._take(message)
        except (msgspec.DecodeError, ValueError):
            log.exception("worker %s of %s sent nonsense", child.process.pid, self.name)
            child.process.kill()
        finally:
            watch.cancel()
        self._stats = None
        self._fail_all(WorkerDied(self.name))
        self._writer.transport.abort()  # close() would wait for frames that nobody reads

    async def _succeed(self, dead: WorkerProcess) -> WorkerProcess | None:
        """Clean up after a child and start the next. Requests that come meanwhile wait for it."""
        if self._unloading:
            await dead.end()
            return None
        if not self._failure:  # what says that it cannot load has not crashed
            self._crashes.append(monotonic())
            self._crashed_files = files_of(self._path)
        if self._is_broken() and not self._failure:
            self._failure = f"its worker ended {CRASH_LIMIT} times within {CRASH_WINDOW_SECONDS:.0f} s"
        if not self._failure:
            self._ready = _unawaited_future()
        await dead.end()
        if self._closing:
            self._fail_all(ShuttingDown())
            return None
        log.error("worker %s of %s ended with code %s", dead.process.pid, self.name, dead.process.returncode)
        # The same files would fail to load again: that waits until somebody asks for the model.
        return None if self._failure else self.spawn()

    def _is_broken(self) -> bool:
        if len(self._crashes) < CRASH_LIMIT or monotonic() - self._crashes[0] >= CRASH_WINDOW_SECONDS:
            return False
        if files_of(self._path) != self._crashed_files:  # another model, of which nothing is known
            self.forgive()
        return len(self._crashes) == CRASH_LIMIT

    def _retry_seconds(self) -> int:
        """Until requests try a model again whose worker has crashed too often; 0 for all others."""
        if not self._is_broken():
            return 0
        return max(1, ceil(self._crashes[0] + CRASH_WINDOW_SECONDS - monotonic()))

    def _fail_all(self, error: Exception) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)
        for queue in set(self._queues.values()):
            queue.put_nowait(error)

    def _take(self, message: protocol.ToParent) -> None:
        self._silent_ticks = 0
        match message:
            case protocol.Outputs(outputs) | protocol.Encoded(outputs):
                for output in outputs:
                    if (queue := self._queues.get(output.request_id)) is not None:
                        queue.put_nowait(output)
            case protocol.RequestFailed(request_id, kind, param, text):
                if (queue := self._queues.get(request_id)) is not None:
                    queue.put_nowait(RequestRefused(kind, text, param))
            case protocol.Peeked(request_id, cached_tokens):
                if (queue := self._queues.get(request_id)) is not None:
                    queue.put_nowait(cached_tokens)
            case protocol.Heartbeat(stats):
                self._stats = stats
            case protocol.Loading(done_bytes, total_bytes):
                self._progress = (done_bytes, total_bytes)
            case protocol.Ready(info) if self._ready is not None and not self._ready.done():
                self._ready.set_result(info)
            case protocol.LoadFailed(_, text) if self._ready is not None and not self._ready.done():
                self._failure = text
                self._ready.set_exception(ModelUnavailable(self.name, text))

    async def _watch(self, child: WorkerProcess) -> None:
        """Count ticks of silence, not time: after the parent was suspended, the worker gets a chance to speak."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._silent_ticks += 1
            if self._silent_ticks >= self._limits.dead_seconds:
                log.error("worker %s of %s was silent for %s s", child.process.pid, self.name, self._silent_ticks)
                child.process.kill()


def _unawaited_future() -> "asyncio.Future[Any]":
    """A future of whose failure asyncio does not complain when nobody waits for it."""
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[protocol.ToParent]:
    """Decoded frames until the other side has closed."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            length = protocol.frame_length(await reader.readexactly(4))
            yield _decoder.decode(await reader.readexactly(length))
