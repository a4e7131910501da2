"""Clients over all routes for a while, some of which leave, and what it does to the server.

    .venv/bin/python scripts/benchmark/soak_http.py [--minutes 30] [--clients 16] [--model smollm2-135m]

Starts a server of this checkout. Fails on a status of 500 or above but 503, on an answer that takes longer than 60 s,
on a worker that takes more memory than is reserved for it, and on more than one log line per request.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

LONGEST_SECONDS = 60
WORDS = ["the", "apple", "tree", "grows", "in", "a", "quiet", "garden", "near", "the", "old", "river"]


def text(rng: random.Random, most: int) -> str:
    """Some words."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, most)))


def request(rng: random.Random) -> tuple[str, dict | None]:
    """An address and a body; no body is a GET."""
    words = text(rng, 300)
    turns = [{"role": "user", "content": words}]
    short = {"max_tokens": rng.randrange(1, 40), "stream": rng.random() < 0.5}
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}}, "required": ["name"]}
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    choices: list[tuple[str, dict | None]] = [
        ("/v1/chat/completions", {"messages": turns, **short}),
        ("/v1/chat/completions", {"messages": turns, "tools": [tool], **short}),
        ("/v1/chat/completions", {"messages": turns, "guided_json": schema, **short}),
        ("/v1/completions", {"prompt": words, "stop": ["apple tree"], "n": rng.randrange(1, 4), **short}),
        ("/v1/responses", {"input": words, "max_output_tokens": 16 + short["max_tokens"], "stream": short["stream"]}),
        ("/v1/messages", {"messages": turns, **short}),
        ("/v1/decisions", {"messages": turns, "questions": [{"name": "grows", "question": "Does it grow?"}]}),
        ("/tokenize", {"prompt": words}),
        ("/v1/estimate", {"prompt": words}),
        ("/v1/embeddings", {"input": [words, "x"]}),
        *((path, None) for path in ("/health", "/v1/models", "/v1/status", "/metrics", "/openapi.json", "/")),
    ]
    return rng.choice(choices)


class Client(threading.Thread):
    """One client after its own seed. Leaves one answer of twenty."""

    def __init__(self, port: int, seed: int, until: float) -> None:
        super().__init__(daemon=True)
        self.statuses: Counter[int] = Counter()
        self.longest_seconds = 0.0
        self.faults: list[str] = []
        self._port, self._rng, self._until = port, random.Random(seed), until

    def run(self) -> None:
        """Until the time is over."""
        while time.monotonic() < self._until:
            path, body = request(self._rng)
            started = time.monotonic()
            status = self._ask(path, body, leaves=self._rng.random() < 0.05)
            self.statuses[status] += 1
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)
            if status >= 500 and status != 503:
                self.faults.append(f"{path}: {status}")

    def _ask(self, path: str, body: dict | None, *, leaves: bool) -> int:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=2 * LONGEST_SECONDS)
        try:
            connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
            if leaves:
                time.sleep(self._rng.random())
                return 0
            answer = connection.getresponse()
            answer.read()
        except (OSError, HTTPException) as error:
            self.faults.append(f"{path}: {type(error).__name__}")
            return -1
        finally:
            connection.close()
        return answer.status


@contextmanager
def serving(model: str, folder: Path) -> Iterator[int]:
    """The port of a server of this checkout, which writes a file `log` into a folder and keeps its prefixes there."""
    from server.settings import load_settings
    from server.terminal.own_server import own_server, serve_command

    os.environ["BRAMLEY_PREFIX_FOLDER"] = str(folder / "prefixes")
    settings = load_settings()
    command = ["info" if each == "error" else each for each in serve_command(model, settings.models_dir)]
    with own_server(["sh", "-c", f'exec "$@" 2> {folder}/log', "sh", *command]) as client:
        yield int(client.url.rsplit(":", 1)[1].split("/")[0])


def status_of(port: int) -> dict:
    """What the server says of itself."""
    connection = HTTPConnection("127.0.0.1", port, timeout=LONGEST_SECONDS)
    connection.request("GET", "/v1/status")
    return json.loads(connection.getresponse().read())


def over_budget(port: int) -> list[str]:
    """Models that take more memory than is reserved for them."""
    memories = {model["id"]: model["memory"] for model in status_of(port)["models"]}
    return [
        f"{name}: {memory['resident_bytes'] / 1e6:.0f} MB of {memory['reserved_bytes'] / 1e6:.0f} MB reserved"
        for name, memory in memories.items()
        if memory["resident_bytes"] > memory["reserved_bytes"]
    ]


def main() -> int:
    """Run, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--model", default="smollm2-135m")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(given.model, Path(folder)) as port:
        until = time.monotonic() + 60 * given.minutes
        clients = [Client(port, seed, until) for seed in range(given.clients)]
        for client in clients:
            client.start()
        faults, num_status = [], 0
        while time.monotonic() < until:
            time.sleep(min(10.0, max(0.1, until - time.monotonic())))
            faults += over_budget(port)
            num_status += 1
        for client in clients:
            client.join(timeout=3 * LONGEST_SECONDS)
        statuses = sum((client.statuses for client in clients), Counter())
        longest = max(client.longest_seconds for client in clients)
        faults += [fault for client in clients for fault in client.faults]
        num_lines = sum(" ms" in line or "ERROR" in line for line in (Path(folder) / "log").read_text().splitlines())
    num_requests = sum(statuses.values()) + num_status
    if longest > LONGEST_SECONDS:
        faults.append(f"an answer took {longest:.1f} s")
    if num_lines > num_requests + 10:
        faults.append(f"{num_lines} log lines of {num_requests} requests")
    print(f"{num_requests} requests {dict(statuses)}, longest answer {longest:.1f} s, {num_lines} log lines")
    print("\n".join(f"{count} x {fault}" for fault, count in Counter(faults).most_common(20)) or "no fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
