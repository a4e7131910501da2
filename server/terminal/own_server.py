"""A server for as long as one chat lasts: a child process on a free loopback port. Knows of HTTP only if it is up."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import IO

from server.terminal.chat_client import ChatClient, ChatFailed

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05


@contextmanager
def own_server(command: Sequence[str], key: str = "") -> Iterator[ChatClient]:
    """Run `command --host ... --port ...` and yield a client to it; the process is gone afterwards.

    command: must serve, and end when its standard input closes: so it does even when this process is killed
    Raises ChatFailed when it does not come up.
    """
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,  # a Ctrl-C that ends an answer is not meant for it
        )
        try:
            client = ChatClient(HOST, port, key)
            _wait_until_up(client, process, log)
            yield client
        finally:
            _end(process)


def serve_command(model: str, models_dir: Path, config: Path | None = None) -> list[str]:
    """This program's own `serve`, bound to its standard input."""
    checkout = str(Path(__file__).resolve().parents[2])
    main = f"import sys; sys.path.insert(0, {checkout!r}); from server.cli.app import main; sys.exit(main())"
    options = ["--models-dir", str(models_dir), "--log-level", "error", "--until-input-closes"]
    if config is not None:
        options += ["--config", str(config)]
    return [sys.executable, "-P", "-c", main, "serve", model, *options]


def end_when_input_closes() -> None:
    """Have this process end as by SIGTERM once its standard input closes: the process that wanted it is gone."""

    def wait() -> None:
        while sys.stdin.buffer.read(1 << 10):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="until-input-closes", daemon=True).start()


def _wait_until_up(client: ChatClient, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
    deadline = monotonic() + START_SECONDS
    while not client.is_up():
        if process.poll() is not None or monotonic() > deadline:
            log.seek(0)
            lines = log.read(1 << 16).decode(errors="replace").split("\n")
            reason = next((line for line in reversed(lines) if line.strip()), "it did not say why")
            raise ChatFailed(f"The server did not start: {reason}")
        sleep(_POLL_SECONDS)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])
