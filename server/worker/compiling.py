"""Requests whose grammar is compiled before the engine takes them, on a thread of its own. Knows no sockets.

A grammar of a client may take a while, and the streams of others go on meanwhile.
"""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from engine.errors import EngineError, GrammarInvalid, RequestError, StepFailed
from engine.requests import GenerationRequest
from engine.sampling.grammar import GrammarRow
from engine.sampling.params import Grammar

# The limits of the library end the work on a grammar sooner, but on a very busy machine.
COMPILE_SECONDS = 10.0
log = logging.getLogger("bramley.worker")


class Compiler(Protocol):
    """The engine's part of compiling."""

    def compile(self, grammar: Grammar) -> GrammarRow:
        """A grammar's beginning. Raises RequestError."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A request whose grammar is ready, or why it is not."""

    request: GenerationRequest
    result: GrammarRow | EngineError


class Compiling:
    """One grammar after the other, in the order of their requests.

    compiler: called on the thread
    report: called on the thread with what is done, but for requests that were cancelled
    seconds: longest wait for one grammar; its request fails then, and the next one's turn comes
    """

    def __init__(
        self, compiler: Compiler, report: Callable[[Compiled], None], *, seconds: float = COMPILE_SECONDS
    ) -> None:
        self._seconds = seconds
        self._compiler = compiler
        self._report = report
        self._requests: queue.SimpleQueue[GenerationRequest] = queue.SimpleQueue()
        self._wanted: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, request: GenerationRequest) -> None:
        """Queue a request that has a grammar."""
        with self._lock:
            self._wanted.add(request.request_id)
        self._requests.put(request)
        if self._thread is None:
            self._thread = threading.Thread(target=self._compile_for_ever, name="grammars", daemon=True)
            self._thread.start()

    def cancel(self, request_id: str) -> None:
        """Nothing of this request is reported any more; unknown ones are ignored."""
        with self._lock:
            self._wanted.discard(request_id)

    def _compile_for_ever(self) -> None:
        while True:
            request = self._requests.get()
            if request.request_id not in self._wanted:
                continue
            done = Compiled(request, self._compile_in_time(request))
            with self._lock:
                if request.request_id not in self._wanted:
                    continue
                self._wanted.discard(request.request_id)
            self._report(done)

    def _compile_in_time(self, request: GenerationRequest) -> GrammarRow | EngineError:
        done: queue.SimpleQueue[GrammarRow | EngineError] = queue.SimpleQueue()
        # Native code cannot be interrupted: whoever takes too long is left alone until the library's limits end it.
        threading.Thread(target=lambda: done.put(self._compile(request)), name="grammar", daemon=True).start()
        try:
            return done.get(timeout=self._seconds)
        except queue.Empty:
            assert request.sampling.grammar is not None  # noqa: S101  # others are not added
            return GrammarInvalid(request.sampling.grammar.param, f"it takes longer than {self._seconds:g} s to read")

    def _compile(self, request: GenerationRequest) -> GrammarRow | EngineError:
        assert request.sampling.grammar is not None  # noqa: S101  # others are not added
        try:
            return self._compiler.compile(request.sampling.grammar)
        except RequestError as error:
            return error
        except Exception:
            log.exception("a grammar could not be compiled")
            return StepFailed("The grammar of this request could not be compiled.")
