"""What one client can cost the others: each attack, and meanwhile how long /health takes and how even a stream is.

    .venv/bin/python scripts/benchmark/attacks.py [--model smollm2-135m] [--seconds 15] [--only stops,grammars]

Starts a server of this checkout; every attack is bounded and stays on this machine. An attack passes when the 99th
percentile of /health is at most 250 ms and its longest answer 1 s, and when no token of another client's stream comes
later than --max-gap-ms and 100 ms after the one before. On a busy machine the figures are those of the machine: the
first line is what it does without an attack.
"""

import argparse
import json
import random
import string
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException

from own import own

AMBIGUOUS = "start: s\ns: s s s | s s | /[a-z ]/ "
MAX_GAP_MS = 200
HELLO = [{"role": "user", "content": "Tell me a long story."}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def random_text(seed: int, length: int) -> str:
    """Letters without a pattern."""
    rng = random.Random(seed)
    return "".join(rng.choice(string.ascii_letters) for _ in range(length))


def attacks() -> dict[str, tuple[int, Callable[[], tuple[str, bytes]]]]:
    """By name: how many clients at once, and what makes the address and the body of each request."""

    def request(path: str, **body: object) -> Callable[[], tuple[str, bytes]]:
        made = json.dumps(body).encode()
        return lambda: (path, made)

    ids = list(range(1000)) * 1000
    wide = {"type": "object", "properties": {f"k{number}": {"type": "string"} for number in range(5000)}}
    relevance = "start: A\nA: " + " & ".join(f"/.*a{number}.*/" for number in range(20))
    return {
        "nothing": (0, request("/health")),
        "stops": (2, request(CHAT, messages=HELLO, max_tokens=1, n=5, stop=[random_text(n, 4096) for n in range(256)])),
        "bounded stops": (2, request(CHAT, messages=HELLO, max_tokens=1, n=5, stop=[random_text(1, 4096)] * 8)),
        "long prompts": (4, request(COMPLETIONS, prompt=random_text(2, 8_000_000), max_tokens=1)),
        "long words": (4, request(CHAT, messages=[{"role": "user", "content": "a" * 4_000_000}], max_tokens=1)),
        "grammars": (8, request(CHAT, messages=HELLO, max_tokens=400, guided_grammar=AMBIGUOUS)),
        "wide schemas": (4, request(CHAT, messages=HELLO, max_tokens=20, guided_json=wide)),
        "slow grammars": (4, request(CHAT, messages=HELLO, max_tokens=20, guided_grammar=relevance)),
        "priorities": (8, request(COMPLETIONS, prompt="x", max_tokens=50, priority=-100)),
        "many lists": (2, lambda: (COMPLETIONS, b'{"prompt": [' + b"[]," * 20_000_000 + b"[]]}")),
        "many ids": (2, request(COMPLETIONS, prompt=[ids] * 4, max_tokens=1)),
        "the document": (4, lambda: ("/openapi.json", b"")),
    }


def send(port: int, path: str, body: bytes) -> int:
    """The status of the answer; 0 where the server has ended the connection."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST" if body else "GET", path, body or None)
        answer = connection.getresponse()
        answer.read()
    except (OSError, HTTPException):
        return 0
    else:
        return answer.status
    finally:
        connection.close()


class Repeated(threading.Thread):
    """Does something again and again until it is stopped."""

    def __init__(self, work: Callable[[], None], stopping: threading.Event) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._stopping = stopping

    def run(self) -> None:
        """Until it is stopped."""
        while not self._stopping.is_set():
            self._work()


class Watch:
    """The times of /health and the gaps of a stream, in milliseconds."""

    def __init__(self, port: int) -> None:
        self.health_ms: list[float] = []
        self.gaps_ms: list[float] = []
        self._port = port

    def ask(self) -> None:
        """Ask for /health once."""
        started = time.perf_counter()
        status = send(self._port, "/health", b"")
        self.health_ms.append((time.perf_counter() - started) * 1000 if status == 200 else 1e6)
        time.sleep(0.02)

    def read(self) -> None:
        """Read one stream to its end."""
        body = {"messages": HELLO, "max_tokens": 60, "stream": True, "ignore_eos": True}
        connection = HTTPConnection("127.0.0.1", self._port, timeout=120)
        connection.request("POST", CHAT, json.dumps(body))
        answer = connection.getresponse()
        last = None
        while line := answer.readline():
            if line.startswith(b"data: {"):
                now = time.perf_counter()
                if last is not None:
                    self.gaps_ms.append((now - last) * 1000)
                last = now
        connection.close()


def run(port: int, name: str, seconds: float) -> bool:
    """One attack; prints its line."""
    count, make = attacks()[name]
    path, body = make()
    stopping, watch, statuses = threading.Event(), Watch(port), []
    workers = [lambda: statuses.append(send(port, path, body))] * count
    threads = [Repeated(work, stopping) for work in (watch.ask, watch.read, *workers)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stopping.set()
    for thread in threads:
        thread.join(timeout=130)
    health = sorted(watch.health_ms)
    p99, most, gap = health[int(0.99 * (len(health) - 1))], health[-1], max(watch.gaps_ms, default=1e6)
    passed = p99 <= 250 and most <= 1000 and gap <= MAX_GAP_MS + 100
    answers = {status: statuses.count(status) for status in sorted(set(statuses))}
    print(
        f"{name:14} /health p99 {p99:7.1f} ms, max {most:7.1f} ms; longest gap of a stream {gap:7.1f} ms; "
        f"{'ok' if passed else 'LATE':4} answers {answers}",
        flush=True,
    )
    return passed


def main() -> int:
    """All attacks, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--only", default=",".join(attacks()))
    given = parser.parse_args()
    with own(given.model) as server:
        port = int(server.start().rsplit(":", 1)[1].split("/")[0])
        send(port, COMPLETIONS, b'{"prompt": "warm", "max_tokens": 1}')
        results = [run(port, name, given.seconds) for name in given.only.split(",")]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
