"""The command line as a person runs it, and a stub of a server to chat with. All traffic stays on 127.0.0.1."""

import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MAIN = [sys.executable, "-m", "server.cli.app"]


@pytest.fixture
def environment(tmp_path):
    """One without any setting of this machine's user, and with an empty store."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "BRAMLEY_", "PYTEST"))}
    ours.pop("NO_COLOR", None)
    return ours | {
        "BRAMLEY_CONFIG": "/dev/null",
        "BRAMLEY_MODELS_DIR": str(tmp_path / "models"),
        "BRAMLEY_PORT": "9",
        "BRAMLEY_PREFIX_DISK_GB": "0",
        "HF_HOME": str(tmp_path / "huggingface"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "COLUMNS": "100",
    }


@pytest.fixture
def bramley(environment):
    """Run a command to its end; returns the finished process."""

    def run(*arguments, typed="", **more):
        return subprocess.run(
            [*MAIN, *map(str, arguments)],
            cwd=ROOT,
            env=environment | more,
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


# Make the terminal on standard input the one whose keys send signals, then become the command.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A command in a terminal of its own, with a person at it."""

    def __init__(self, environment, *arguments):
        main, other = pty.openpty()
        self._main, self.text = main, ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *MAIN, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)

    def type(self, keys):
        os.write(self._main, keys.encode())

    def wait_for(self, words, seconds=20):
        """Read the screen until the words are on it, behind those that were waited for before."""
        deadline = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < deadline, self.text
            if select.select([self._main], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._main, 1 << 16).decode(errors="replace")
                except OSError:  # the other end is closed
                    assert words in self.text, self.text
        self.text = self.text.partition(words)[2]

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._main)


@pytest.fixture
def terminal(environment):
    """Start a command in a terminal."""
    started = []

    def start(*arguments):
        started.append(Terminal(environment | {"TERM": "xterm"}, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.close()


class StubServer:
    """An OpenAI-compatible server with one model, "stub", that answers with the pieces it is given.

    status_page: what GET /v1/status answers; unloaded: the models that were asked to leave
    bodies: the chat requests, in order; hung_up: set when a client leaves in the middle of an answer
    """

    def __init__(self):
        self.pieces = ["Paris", " is", " it."]
        self.ending = "data: [DONE]\n\n"
        self.status, self.pause = 200, 0.0
        self.bodies, self.keys, self.unloaded, self.status_page = [], [], [], None
        self.hung_up = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def _handler(stub):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/v1/status" and stub.status_page is not None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(stub.status_page).encode())
                return
            if self.path == "/v1/models":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"data": [{"id": "stub", "owned_by": "bramley", "context_length": 128}]}')
                return
            self.send_response(200 if self.path in ("/health", "/v1/models/stub", "/v1/models/org%2Fstub") else 404)
            self.end_headers()

        def do_POST(self):
            if self.path.endswith("/unload") and stub.status == 200:
                stub.unloaded.append(self.path.split("/")[-2])
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{}")
                return
            stub.keys.append(self.headers.get("authorization"))
            stub.bodies.append(json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}"))
            self.send_response(stub.status)
            self.end_headers()
            try:
                if stub.status != 200:
                    self.wfile.write(b'{"error": {"message": "The queue is full."}}')
                    return
                self.wfile.write(b": a comment\n\n")
                self.event({"role": "assistant", "content": ""})
                for piece in stub.pieces:
                    self.event({"content": piece})
                    time.sleep(stub.pause)
                self.wfile.write(stub.ending.encode())
            except OSError:
                stub.hung_up.set()

        def event(self, delta):
            self.wfile.write(b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n")

    return Handler


@pytest.fixture
def stub_server(environment):
    stub = StubServer()
    environment["BRAMLEY_PORT"] = str(stub.port)
    yield stub
    stub.close()
