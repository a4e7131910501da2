"""A chat template that renders in a process of its own, which can be ended. Knows processes; the rendering is
chat_template.py's.

A template comes with a model and is a program: it may loop for hours or fill the memory. The child process reads frames
from its input and answers on its output: 4 bytes of little-endian length and that many bytes of JSON.
"""

import contextlib
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from time import monotonic
from typing import IO, TYPE_CHECKING, Any

from engine.errors import TemplateFailed
from engine.text.template_habits import JsonObject

if TYPE_CHECKING:
    from engine.text.chat_template import Message

# Of one rendering. The wall clock is for machines so busy that the processor time is not used up.
PROCESSOR_SECONDS = 5
WALL_SECONDS = 60.0
MEMORY_BYTES = 3 << 29
# While one rendering takes longer than a moment, no more than so many wait for it.
_MOMENT_SECONDS = 1.0
_MOST_WAITING = 8
_COMMAND = (sys.executable, "-P", "-m", "server.worker.contained_template")
_LENGTH = struct.Struct("<I")
_STUCK = "The model's chat template takes too long or too much memory for these messages."


class ContainedTemplate:
    """A ChatTemplate whose work is done by a child process, started when it is first needed. Safe to use from threads.

    sources, special_tokens: as those of ChatTemplate
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], *, tool_source: str | None = None) -> None:
        self.sources: tuple[str, ...] = (source,) if tool_source is None else (source, tool_source)
        self._special_tokens = dict(special_tokens)
        self._lock = Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._is_checked = False
        self._began = 0.0
        self._num_waiting = 0
        self._num_stuck = 0

    @classmethod
    def started(
        cls, source: str, special_tokens: Mapping[str, str], *, tool_source: str | None = None
    ) -> "ContainedTemplate":
        """A template whose child process has begun, so that the first rendering need not wait for it."""
        template = cls(source, special_tokens, tool_source=tool_source)
        with contextlib.suppress(OSError):
            template._spawn()
        return template

    def render(
        self,
        messages: "Sequence[Message]",
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The messages as the model was taught to read them. Raises TemplateFailed, also where it does not end."""
        options = {
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "variables": dict(variables or {}),
        }
        given = {"messages": messages, **options}
        frame = _frame({**given, "objects": list(_objects(given, ()))})
        with self._turn():
            return self._ask(frame)

    def close(self) -> None:
        """End the child process, also in the midst of its work."""
        if self._lock.acquire(blocking=False):
            self._end()
            self._lock.release()
        elif (child := self._child) is not None:
            child.kill()  # whoever waits for it cleans up

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for the child; not behind many others, and not once it has been stuck."""
        num_stuck = self._num_stuck
        if self._num_waiting >= _MOST_WAITING and monotonic() - self._began > _MOMENT_SECONDS:
            raise TemplateFailed(_STUCK)
        self._num_waiting += 1
        try:
            self._lock.acquire()
        finally:
            self._num_waiting -= 1
        try:
            if self._num_stuck != num_stuck:
                raise TemplateFailed(_STUCK)
            self._began = monotonic()
            yield
        finally:
            self._lock.release()

    def _ask(self, frame: bytes) -> str:
        deadline = monotonic() + WALL_SECONDS
        try:
            child = self._child or self._spawn()
            answer = {} if self._is_checked else _read_in_time(child.stdout, deadline)
            self._is_checked = True
            if "error" in answer:  # of the template itself, for ever
                self._end()
            else:
                _write(child, frame)
                answer = _read_in_time(child.stdout, deadline)
        except (OSError, EOFError, TimeoutError):
            self._num_stuck += 1
            self._end()
            raise TemplateFailed(_STUCK) from None
        if "error" in answer:
            raise TemplateFailed(answer["error"])
        text: str = answer["text"]
        return text

    def _spawn(self) -> "subprocess.Popen[bytes]":
        from server.settings import worker_environment  # noqa: PLC0415  # the child does without

        self._child = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker_environment(),
        )
        self._is_checked = False
        _write(self._child, _frame({"sources": self.sources, "special_tokens": self._special_tokens}))
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    assert pipe is not None  # noqa: S101  # both are pipes
                    pipe.close()

    def __del__(self) -> None:
        self._end()


def _objects(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where objects are that a template writes as JSON, which JSON itself does not tell."""
    if isinstance(value, JsonObject):
        yield path, value.source
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _objects(each, (*path, key))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _objects(each, (*path, index))


def _restore(given: Any, path: Sequence[str | int], source: str) -> None:
    *before, last = path
    for key in before:
        given = given[key]
    given[last] = JsonObject(given[last], source)


def _frame(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return _LENGTH.pack(len(body)) + body


def _write(child: "subprocess.Popen[bytes]", frame: bytes) -> None:
    assert child.stdin is not None  # noqa: S101  # it is a pipe
    child.stdin.write(frame)
    child.stdin.flush()


def _read_in_time(stream: IO[bytes] | None, deadline: float) -> Any:
    """The next frame. Raises TimeoutError, EOFError and OSError."""
    assert stream is not None  # noqa: S101  # it is a pipe
    descriptor = stream.fileno()

    def read(count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            if not select.select([descriptor], [], [], max(0.0, deadline - monotonic()))[0]:
                raise TimeoutError
            piece = os.read(descriptor, min(count - len(parts), 1 << 20))
            if not piece:
                raise EOFError
            parts += piece
        return bytes(parts)

    return json.loads(read(*_LENGTH.unpack(read(_LENGTH.size))))


def main() -> int:
    """The child's: make a template of the first frame, and render one after the other until the input ends."""
    from engine.text.chat_template import ChatTemplate  # noqa: PLC0415  # the parent does without Jinja

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere the system does not keep to it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    template: ChatTemplate | None = None
    while (prefix := sys.stdin.buffer.read(_LENGTH.size)) and len(prefix) == _LENGTH.size:
        given = json.loads(sys.stdin.buffer.read(*_LENGTH.unpack(prefix)))
        _allow_time()
        try:
            if template is None:
                source, *tool_source = given["sources"]
                template = ChatTemplate(source, given["special_tokens"], tool_source=next(iter(tool_source), None))
                answer = {}
            else:
                answer = {"text": _rendered(template, given)}
        except TemplateFailed as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": _STUCK}
        except Exception as error:  # noqa: BLE001  # whatever it is, the next messages may be rendered
            answer = {"error": f"The chat template failed on these messages ({type(error).__name__})."}
        sys.stdout.buffer.write(_frame(answer))
        sys.stdout.buffer.flush()
    return 0


def _rendered(template: Any, given: dict[str, Any]) -> str:
    for path, source in given.pop("objects"):
        _restore(given, path, source)
    text: str = template.render(given.pop("messages"), **given)
    return text


def _allow_time() -> None:
    """Let the system end this process when it computes for too long from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    # The limit has whole seconds; the time that is used so far counts.
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + PROCESSOR_SECONDS, most))


if __name__ == "__main__":
    sys.exit(main())
