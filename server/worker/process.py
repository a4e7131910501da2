"""One worker process: started with a socket to its parent, ended within seconds. Knows nothing of its messages."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.settings import EngineSettings
from server.settings import worker_environment
from server.worker import protocol

# -P: the folder the server was started in holds data; nothing is imported from it.
WORKER_COMMAND = (sys.executable, "-P", "-m", "server.worker")

STOP_SECONDS = 2.0


class WorkerProcess:
    """A worker process and the parent's end of the socket to it."""

    def __init__(self, command: Sequence[str], path: Path, settings: EngineSettings) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(path), protocol.encode_settings(settings)],
                pass_fds=[theirs.fileno()],
                env=worker_environment(),
                stdin=subprocess.DEVNULL,
            )

    async def end(self) -> None:
        """Close the socket, wait shortly for the process, then kill it."""
        self.connection.close()
        await asyncio.to_thread(self._wait_or_kill)

    def _wait_or_kill(self) -> None:
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def files_of(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a model's files; another value where a file has been replaced."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
