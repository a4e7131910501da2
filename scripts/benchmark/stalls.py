"""How long the server's event loop is held up by large requests: the slowest of many /health answers meanwhile.

    .venv/bin/python scripts/benchmark/stalls.py [--model smollm2-135m] [--megabytes 2]

Starts a server of this checkout. Every request is sent as it would be by a client, whole and at once; what the server
answers to it does not matter. On a busy machine the figures are those of the machine.
"""

import argparse
import json
import threading
import time
from http.client import HTTPConnection

from own import own

WORD = "apple "


def bodies(num_bytes: int) -> dict[str, tuple[str, dict]]:
    """Requests of about this size, by what they are made of."""
    text = WORD * (num_bytes // len(WORD))
    ids = list(range(1000, 2000)) * (num_bytes // 6 // 1000)
    many = [text[:1000]] * min(2048, num_bytes // 1000)
    schema = {"type": "object", "properties": {f"key{number}": {"type": "string"} for number in range(num_bytes // 32)}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    turns = [{"role": "user", "content": WORD * 20}, {"role": "assistant", "content": WORD * 20}]
    return {
        "a text": ("/v1/completions", {"prompt": text, "max_tokens": 1}),
        "ids": ("/v1/completions", {"prompt": ids, "max_tokens": 1}),
        "many prompts": ("/v1/completions", {"prompt": many, "max_tokens": 1, "stream": True}),
        "a message": ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
        "many messages": ("/v1/chat/completions", {"messages": turns * (num_bytes // 320)}),
        "a tool": ("/v1/chat/completions", {"messages": turns[:1], "tools": [tool], "max_tokens": 1}),
        "a text to count": ("/tokenize", {"prompt": text}),
        "ids to spell": ("/detokenize", {"tokens": ids}),
        "stop strings": ("/v1/completions", {"prompt": "x", "max_tokens": 1, "stop": [WORD * 600] * 255}),
    }


class Probe(threading.Thread):
    """Asks for /health again and again over one connection, and keeps the times in seconds."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.seconds: list[float] = []
        self._connection = HTTPConnection("127.0.0.1", port)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until it is stopped."""
        while not self._stopping.wait(0.001):
            started = time.perf_counter()
            self._connection.request("GET", "/health")
            self._connection.getresponse().read()
            self.seconds.append(time.perf_counter() - started)

    def stop(self) -> list[float]:
        """All times."""
        self._stopping.set()
        self.join()
        return self.seconds


def send(port: int, path: str, body: bytes, patience_seconds: float = 20) -> int:
    """The status of the answer, or 0 for an answer that takes longer than is waited for."""
    connection = HTTPConnection("127.0.0.1", port, timeout=patience_seconds)
    try:
        connection.request("POST", path, body)
        return connection.getresponse().status
    except TimeoutError:
        return 0
    finally:
        connection.close()


def main() -> None:
    """One line per kind of request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--megabytes", type=float, default=2.0)
    given = parser.parse_args()
    with own(given.model) as server:
        port = int(server.start().rsplit(":", 1)[1].split("/")[0])
        send(port, "/v1/completions", b'{"prompt": "warm", "max_tokens": 1}', 60)
        requests = {"nothing": ("/tokenize", {"prompt": "x"}), **bodies(int(given.megabytes * 1e6))}
        for name, (path, request) in requests.items():
            body = json.dumps(request).encode()
            probe = Probe(port)
            probe.start()
            statuses = [send(port, path, body) for _ in range(3)]
            time.sleep(0.2)
            times = probe.stop()
            size, slowest = len(body) / 1e6, max(times) * 1000
            print(
                f"{name:16} {size:5.1f} MB  {statuses}  {len(times):5} answers, slowest {slowest:6.1f} ms", flush=True
            )


if __name__ == "__main__":
    main()
