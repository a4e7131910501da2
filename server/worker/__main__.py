"""The child's main: socket -> Engine or Embedder -> socket. Owns MLX on its main thread; knows nothing of text or HTTP.

Three threads: the main one loads the model and steps the engine; one fills the inbox with plain values and ends the
process when the parent has gone; one sends a heartbeat each second, as long as the main one makes progress.
"""

import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import msgspec

from engine.errors import CheckpointError, EngineError, RequestError
from engine.sampling.grammar import GrammarRow
from engine.settings import EngineSettings, EngineStats
from server.worker import protocol
from server.worker.compiling import Compiled, Compiling

HEARTBEAT_SECONDS = 1.0
PROGRESS_SECONDS = 0.1
# A prefill chunk of a large model on a slow CPU takes minutes, a deadlock takes for ever.
LONGEST_STEP_SECONDS = 300.0
EXIT_LOAD_FAILED = 3

_decoder: "msgspec.msgpack.Decoder[protocol.ToWorker]" = msgspec.msgpack.Decoder(protocol.ToWorker)


class Model(Protocol):
    """The methods that Engine and Embedder share. The model's info names the kind of its requests and outputs."""

    info: Any

    def submit(self, request: Any) -> None:
        """Queue a request. Raises RequestError."""

    def cancel(self, request_id: str) -> None:
        """Drop a request."""

    def cached_tokens(self, tokens: Sequence[int]) -> int:
        """The number of a prompt's tokens that are in the prefix cache."""

    def step(self) -> list[Any]:
        """Compute one step, and return its outputs."""

    @property
    def has_work(self) -> bool:
        """True while step() has something to compute."""

    @property
    def stats(self) -> EngineStats:
        """The memory in use, and the counts since the start."""

    def close(self) -> None:
        """Write what outlives the process to disk."""


class Link:
    """The worker's end of the socket. Both sending threads pass through one lock."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: protocol.ToParent) -> None:
        """Send one frame; blocks while the parent does not read. Without a parent the process ends."""
        try:
            with self._lock:
                self._connection.sendall(protocol.encode_frame(message))
        except OSError:
            os._exit(0)

    def receive(self) -> protocol.ToWorker | None:
        """The parent's next message, or None when it has gone."""
        body = protocol.read_frame(self._connection)
        return None if body is None else _decoder.decode(body)


class Heartbeats:
    """One heartbeat each second, but none while a single step or a load takes longer than LONGEST_STEP_SECONDS."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._busy_since: float | None = monotonic()
        self._stats: EngineStats | None = None
        self._patient = False

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Send heartbeats however long it takes: what the main thread waits for has limits of its own."""
        self._patient = True
        try:
            yield
        finally:
            self.busy()
            self._patient = False

    def busy(self, stats: EngineStats | None = None) -> None:
        """The main thread has made progress and goes on working."""
        self._busy_since = monotonic()
        self._stats = stats

    def idle(self, stats: EngineStats) -> None:
        """The main thread waits for requests; the parent is told at once if the last step changed the statistics."""
        self._busy_since = None
        if stats != self._stats:
            self._stats = stats
            self._link.send(protocol.Heartbeat(stats))

    def send_for_ever(self) -> None:
        """Run in a thread of its own."""
        pause = threading.Event()
        while not pause.wait(HEARTBEAT_SECONDS):
            since = self._busy_since
            if self._patient or since is None or monotonic() - since < LONGEST_STEP_SECONDS:
                self._link.send(protocol.Heartbeat(self._stats))


class Inbox:
    """Messages from the parent, in order. The process ends the moment the parent has gone, whatever it is doing.

    at_end: called before the process ends; it has as long as the parent waits for the process
    """

    def __init__(self, link: Link) -> None:
        self.at_end: Callable[[], None] | None = None
        self._link = link
        self._messages: queue.SimpleQueue[protocol.ToWorker | Compiled] = queue.SimpleQueue()

    def fill_for_ever(self) -> None:
        """Run in a thread of its own."""
        try:
            while (message := self._link.receive()) is not None:
                self._messages.put(message)
        finally:
            try:
                if self.at_end is not None:
                    self.at_end()
            finally:
                os._exit(0)

    def put(self, message: Compiled) -> None:
        """Add a grammar that another thread of this process has compiled."""
        self._messages.put(message)

    def drain(self, *, wait: bool) -> Iterator[protocol.ToWorker | Compiled]:
        """The messages that have come so far; with `wait`, at least one."""
        if wait:
            yield self._messages.get()
        while not self._messages.empty():
            yield self._messages.get()


def load(path: Path, settings: EngineSettings, link: Link, heartbeats: Heartbeats) -> Model | None:
    """Load the model and say so, or say why not."""
    last_report = 0.0

    def report(done_bytes: int, total_bytes: int) -> None:
        nonlocal last_report
        heartbeats.busy()
        if monotonic() - last_report >= PROGRESS_SECONDS:
            last_report = monotonic()
            link.send(protocol.Loading(done_bytes, total_bytes))

    try:
        with heartbeats.patient():  # compiling takes minutes on a busy machine
            prepare(settings)
        model = open_model(path, settings, report)
    except CheckpointError as error:
        link.send(protocol.LoadFailed(type(error).__name__, str(error)))
        return None
    except MemoryError:
        link.send(protocol.LoadFailed("MemoryError", "there is not enough memory for its weights"))
        return None
    link.send(protocol.Ready(asdict(model.info)))
    return model


def prepare(settings: EngineSettings) -> None:
    """Have the device's kernels, compiled where they are not yet."""
    from engine.device import prepare_device  # noqa: PLC0415  # mlx starts here, as below

    prepare_device(settings.kernels, settings.threads)


def open_model(path: Path, settings: EngineSettings, on_progress: Callable[[int, int], None]) -> Model:
    """An Embedder for models that only read, else an Engine. Raises CheckpointError."""
    # mlx starts here, on the thread that steps it, under a watched socket
    from engine.checkpoint.checkpoint import open_checkpoint  # noqa: PLC0415
    from engine.embedding.embedder import Embedder, EmbedderSettings  # noqa: PLC0415
    from engine.embedding.reader import only_reads  # noqa: PLC0415
    from engine.engine import Engine  # noqa: PLC0415

    if only_reads(open_checkpoint(path)):
        own = EmbedderSettings(
            context_length=settings.context_length,
            bits=settings.bits,
            kernels=settings.kernels,
            threads=settings.threads,
        )
        return Embedder(path, own, on_progress)
    return Engine(path, settings, on_progress)


def work(engine: Model, inbox: Inbox, link: Link, heartbeats: Heartbeats) -> None:
    """Step the engine while there is work, and sleep while there is none."""
    report = protocol.Encoded if engine.info.kind in protocol.ENCODING_KINDS else protocol.Outputs
    dispatcher = Dispatcher(engine, inbox, link)
    while True:
        if not engine.has_work:
            heartbeats.idle(engine.stats)
        for message in inbox.drain(wait=not engine.has_work):
            dispatcher.dispatch(message)
        heartbeats.busy(engine.stats)
        if engine.has_work and (outputs := engine.step()):
            link.send(report(outputs))


class Dispatcher:
    """Hands messages to the engine, one at a time. A grammar is compiled before its request is handed over."""

    def __init__(self, engine: Any, inbox: Inbox, link: Link) -> None:
        self._engine = engine
        self._link = link
        self._compiling = Compiling(engine, inbox.put)

    def dispatch(self, message: protocol.ToWorker | Compiled) -> None:
        """Call the method of the engine that a message asks for."""
        match message:
            case protocol.Submit(request) if request.sampling.grammar is not None:
                self._compiling.add(request)
            case protocol.Submit(request) | protocol.Encode(request):
                self._submit(request)
            case Compiled(request, GrammarRow() as grammar):
                self._submit(request, grammar)
            case Compiled(request, EngineError() as error):
                self._refuse(request, error)
            case protocol.Cancel(request_id):
                self._compiling.cancel(request_id)
                self._engine.cancel(request_id)
            case protocol.Peek(request_id, prompt_ids):
                self._link.send(protocol.Peeked(request_id, self._engine.cached_tokens(prompt_ids)))

    def _submit(self, request: Any, *compiled: GrammarRow) -> None:
        try:
            self._engine.submit(request, *compiled)
        except RequestError as error:
            self._refuse(request, error)

    def _refuse(self, request: Any, error: EngineError) -> None:
        param = error.param if isinstance(error, RequestError) else ""
        self._link.send(protocol.RequestFailed(request.request_id, type(error).__name__, param, str(error)))


def main(arguments: list[str]) -> int:
    """Serve the model at a path to the parent at the other end of an inherited socket, until that closes."""
    # A terminal's Ctrl-C and a service manager's SIGTERM reach the whole group; the parent decides when answers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    descriptor, path, settings = arguments
    link = Link(socket.socket(fileno=int(descriptor)))
    inbox, heartbeats = Inbox(link), Heartbeats(link)
    for run in (inbox.fill_for_ever, heartbeats.send_for_ever):
        threading.Thread(target=run, name=run.__qualname__, daemon=True).start()
    engine = load(Path(path), protocol.decode_settings(settings), link, heartbeats)
    if engine is None:
        return EXIT_LOAD_FAILED
    inbox.at_end = engine.close
    work(engine, inbox, link, heartbeats)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
