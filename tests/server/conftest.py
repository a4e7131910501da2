"""Servers for tests: the real server process over fake workers, on a free port of the loopback interface."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

ROOT = Path(__file__).parent.parent.parent
FAKE = Path(__file__).with_name("fake_serve.py")


@dataclass
class Server:
    """A running server; its log is what it wrote to stderr."""

    process: subprocess.Popen
    log_path: Path
    lines: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def worker(self) -> psutil.Process:
        """The only child process, waited for."""
        return wait_for(lambda: next(iter(psutil.Process(self.process.pid).children()), None))

    def client(self, **options) -> httpx.Client:
        return httpx.Client(**{"base_url": self.url, "timeout": 30, **options})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def end(self, number: int = signal.SIGTERM, patience_seconds: float = 20) -> int:
        self.process.send_signal(number)
        return self.process.wait(patience_seconds)

    def say(self, **keys) -> str:
        """The text a script answers with."""
        with self.client() as client:
            response = client.post("/v1/completions", json=self.script(**keys))
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["text"]

    def state(self) -> dict:
        """What the fake worker has seen: how many requests run, which were cancelled last, its process id."""
        return json.loads(self.say(say_state=True))

    @staticmethod
    def script(**keys) -> dict:
        """A completion request that makes the fake worker follow a script."""
        return {"prompt": json.dumps(keys), "max_tokens": 2000}

    @staticmethod
    def wait_for(question: Callable, patience_seconds: float = 15):
        """The first true answer."""
        return wait_for(question, patience_seconds)

    @staticmethod
    def events(response: httpx.Response) -> list[dict]:
        """The events of a finished stream, checked for their framing; the end mark is left out."""
        raw = response.read()
        assert b"\r" not in raw
        frames = raw.decode().split("\n\n")
        assert frames.pop() == ""
        assert frames.pop() == "data: [DONE]"
        assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
        return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def wait_for(question: Callable, patience_seconds: float = 15):
    deadline = time.monotonic() + patience_seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return answer


@pytest.fixture(scope="session")
def launch(tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """Start a server from a command line; BRAMLEY_* settings are keyword arguments."""
    servers: list[Server] = []

    def start(arguments: list, *, wait: bool = True, **settings) -> Server:
        folder = tmp_path_factory.mktemp("server")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("BRAMLEY_", "HF_"))}
        defaults = {"port": 0, "prefix_disk_gb": 0, "memory_file": folder / "memory.json"}
        environment |= {f"BRAMLEY_{name.upper()}": str(value) for name, value in (defaults | settings).items()}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                cwd=folder,
                env=environment | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        server = Server(process, folder / "log")
        servers.append(server)
        threading.Thread(target=lambda: server.lines.extend(process.stdout), daemon=True).start()
        if wait:
            server.url = wait_for(lambda: address(server))
        return server

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()


def address(server: Server) -> str | None:
    """The address a server has printed, without /v1."""
    assert server.process.poll() is None, server.log
    found = re.search(r"(http://\S+)/v1$", "".join(server.lines), re.MULTILINE)
    return found and found.group(1)


@pytest.fixture(scope="session")
def start_fake(launch, tmp_path_factory) -> Callable[..., Server]:
    """Start a server over a fake worker. `load` scripts how the model loads."""

    def start(*, load: dict | None = None, names: tuple[str, ...] = ("org--fake",), **settings) -> Server:
        folders = [tmp_path_factory.mktemp("models") / name for name in names]
        for folder in folders:
            folder.mkdir()
            (folder / "load.json").write_text(json.dumps(load or {}))
        return launch([FAKE, *folders], **settings)

    return start


@pytest.fixture(scope="session")
def spelled_model(tmp_path_factory) -> Callable[..., Path]:
    """A random model of the fixtures, with a tokenizer that spells token 7 as `w7`; config.json as given."""

    def make(fixture: str, **config) -> Path:
        path = tmp_path_factory.mktemp("models") / fixture
        shutil.copytree(ROOT / "tests" / "engine" / "architectures" / "fixtures" / fixture, path)
        config = json.loads((path / "config.json").read_text()) | config
        (path / "config.json").write_text(json.dumps(config))
        vocabulary = {f"w{number}": number for number in range(config["vocab_size"])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(path / "tokenizer.json"))
        return path

    return make


@pytest.fixture(scope="session")
def fake(start_fake) -> Server:
    """A server that tests share; none of them kills its worker."""
    return start_fake(names=("org--fake", "second"))


@pytest.fixture
def client(fake) -> Iterator[httpx.Client]:
    with fake.client() as client:
        yield client
