"""uvicorn, made to drain: at the first signal running answers finish, at the second everything ends."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from socket import socket
from time import monotonic
from types import FrameType

import uvicorn

from server.http.deadlines import patient_protocol
from server.http.traffic import Traffic
from server.models.registry import Registry
from server.settings import Settings

# For connections that linger after their answers have ended.
LINGER_SECONDS = 1

_log = logging.getLogger("bramley.http")


class Listener(uvicorn.Server):
    """The HTTP server of one process. `on_open` is called on the event loop once requests are accepted."""

    def __init__(self, settings: Settings, traffic: Traffic, registry: Registry, on_open: Callable[[], None]) -> None:
        super().__init__(_config(settings, traffic))
        self._traffic = traffic
        self._registry = registry
        self._on_open = on_open
        self._drain_seconds = settings.drain_seconds
        self._deadline = 0.0
        self._said_to_drain = False

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        # A terminal that is closed; whoever starts the server with nohup has it ignored.
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.handle_exit, signal.SIGHUP, None)
        calm_collector()
        self._on_open()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signals that mean to end the process."""
        if self._traffic.draining:
            self.should_exit = self.force_exit = True
        else:
            self._traffic.draining = True
            self._deadline = monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Every tenth of a second: the end has come when nothing runs or time is up."""
        if self._traffic.draining and (self._traffic.num_running == 0 or monotonic() >= self._deadline):
            self.should_exit = True
        elif self._traffic.draining and not self._said_to_drain:
            self._said_to_drain = True  # here, because a signal may come in the middle of a line of the log
            _log.info(
                "draining: running requests (%d) have %g s to finish; a second Ctrl-C ends them at once",
                self._traffic.num_running,
                self._drain_seconds,
            )
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """End the workers first, so that what still streams gets its last event before connections close."""
        await self._registry.close()
        await super().shutdown(sockets)


def calm_collector() -> None:
    """Have Python look for cycles seldom, and never among what is imported: a full look stops everybody for 100 ms.

    A request of thousands of messages is enough to set one off otherwise.
    """
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


def _config(settings: Settings, traffic: Traffic) -> uvicorn.Config:
    return uvicorn.Config(
        traffic,
        http=patient_protocol(
            read_timeout_seconds=settings.read_timeout_seconds,
            stalled_reader_seconds=settings.stalled_reader_seconds,
        ),
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=settings.listen_backlog,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=LINGER_SECONDS,
        h11_max_incomplete_event_size=settings.max_header_bytes,
    )
