"""How long a connection may dawdle: a sender with its request, a reader with its answer. Knows uvicorn and h11."""

import asyncio
from http import HTTPStatus
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.errors import ErrorRow, envelope
from server.http.dialects import anthropic_error, speaks_anthropic

# A reader that takes less than this in one period counts as stalled.
MIN_DRAINED_BYTES = 4096

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# The first write brings the reset of a client that has left, the second one meets it.
_PROBE_SECONDS, _LATER_PROBE_SECONDS = 0.05, 1.0

_LATE = ErrorRow(408, "invalid_request_error", "request_timeout")
_NOT_HTTP = ErrorRow(400, "invalid_request_error", None)


class PatientProtocol(H11Protocol):
    """uvicorn's protocol with two clocks, which it lacks.

    A request must arrive whole within `read_timeout_seconds` of its first byte (of the connection, for the first one;
    of the answer before, for one that was sent along with others). An answer that does not flow for
    `stalled_reader_seconds` ends the connection, which cancels its work. A client that says that it sends no more still
    gets its answer.
    """

    read_timeout_seconds: float
    stalled_reader_seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._read_timer = self.loop.call_later(self.read_timeout_seconds, self._end_late_sender)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_read_timer()
        self._stop_write_timer()
        self._stop_probe_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_sender()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_sender()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn never leaves it open
        """Leave the connection open for the answer to a whole request. Who ends later, in an answer, has left."""
        cycle = self.cycle
        if cycle is None or cycle.response_started or cycle.more_body:
            return False
        cycle.keep_alive = False
        self._probe(_PROBE_SECONDS)
        return True

    def _watch_sender(self) -> None:
        """Have the clock run while a request has begun and is not whole."""
        state = self.conn.their_state
        if not (state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0])):
            self._stop_read_timer()
        elif self._read_timer is None and not self.transport.is_closing():
            self._read_timer = self.loop.call_later(self.read_timeout_seconds, self._end_late_sender)

    def _probe(self, pause_seconds: float) -> None:
        """Find out whether the client is still there: one that has left answers a write with a reset.

        Before an answer, HTTP allows such lines, and clients pass over them; the answer itself tells later.
        """
        if self.cycle is not None and not self.cycle.response_started and not self.transport.is_closing():
            self.transport.write(_CONTINUE)
            self._probe_timer = self.loop.call_later(pause_seconds, self._probe, _LATER_PROBE_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def _watch_reader(self) -> None:
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self.stalled_reader_seconds, self._end_stalled_reader)

    def _end_stalled_reader(self) -> None:
        if self.transport.get_write_buffer_size() > self._unsent_bytes - MIN_DRAINED_BYTES:
            self.transport.abort()
        else:
            self._watch_reader()

    def _end_late_sender(self) -> None:
        """Answer 408 where no answer to this request has begun, and close."""
        is_answered = self.conn.their_state is h11.SEND_BODY and self.cycle is not None and self.cycle.response_started
        if not is_answered:
            message = f"The request did not arrive within {self.read_timeout_seconds:g} s."
            # Of a request whose headers have come, the path is known.
            path = self.scope["path"] if self.cycle is not None and not self.cycle.response_complete else ""
            self.transport.write(_last_answer(_LATE, message, path))
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is not HTTP, or has more headers than it reads."""
        self.transport.write(_last_answer(_NOT_HTTP, "This is not a valid HTTP request, or its headers are too large."))
        self.transport.close()

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _stop_probe_timer(self) -> None:
        if self._probe_timer is not None:
            self._probe_timer.cancel()
            self._probe_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _last_answer(row: ErrorRow, message: str, path: str = "") -> bytes:
    """A response written past the protocol, whose state allows none any more."""
    told = anthropic_error(row, message, None) if speaks_anthropic(path) else envelope(row, message)
    body = msgspec.json.encode(told)
    status = f"HTTP/1.1 {row.status} {HTTPStatus(row.status).phrase}"
    headers = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
    return f"{status}\r\n{headers}\r\n\r\n".encode() + body


def patient_protocol(*, read_timeout_seconds: float, stalled_reader_seconds: float) -> type[PatientProtocol]:
    """The protocol with its limits; uvicorn makes one object of this class per connection."""
    limits = {"read_timeout_seconds": read_timeout_seconds, "stalled_reader_seconds": stalled_reader_seconds}
    return type("PatientProtocol", (PatientProtocol,), limits)
