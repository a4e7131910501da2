"""One streamed completion, timed. Knows the wire format; knows no scenario."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx


@dataclass
class Timing:
    """When things happened, in seconds on one clock.

    What is measured shares the processors with this program: events are only kept as they arrive, and read afterwards.

    started: the request was sent; events: each event of the answer, with the time of its arrival
    """

    started: float = 0.0
    events: list[tuple[float, bytes]] = field(default_factory=list)

    @cached_property
    def arrivals(self) -> list[float]:
        """The times of the events that brought text."""
        return [time for time, event in self._read if any(choice.get("text") for choice in event.get("choices", []))]

    @property
    def prompt_tokens(self) -> int:
        """As the server counts; 0 if it does not say."""
        return self._usage.get("prompt_tokens", 0)

    @property
    def completion_tokens(self) -> int:
        """As the server counts, or one per piece of text."""
        return self._usage.get("completion_tokens", len(self.arrivals))

    @property
    def first_token_seconds(self) -> float:
        """From the request to its first text."""
        return self.arrivals[0] - self.started

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first, over the time after the first."""
        return (self.completion_tokens - 1) / (self.arrivals[-1] - self.arrivals[0])

    @cached_property
    def _read(self) -> list[tuple[float, dict[str, Any]]]:
        read = [(time, json.loads(line.removeprefix(b"data:"))) for time, line in self.events]
        for _, event in read:
            if event.get("error"):
                raise SystemExit(f"the stream ended with an error: {event['error']}")
        return read

    @cached_property
    def _usage(self) -> dict[str, int]:
        return next((event["usage"] for _, event in reversed(self._read) if event.get("usage")), {})


class Server:
    """An OpenAI-compatible server and the model it is asked for.

    restart: ends it, starts it anew with the same folders, and returns its base URL; None for others' servers
    """

    def __init__(
        self,
        base_url: str,
        model: str | None,
        timeout_seconds: float,
        name: str,
        restart: Callable[[], str] | None = None,
    ) -> None:
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.model = model
        self._restart = restart
        self._timeout_seconds = timeout_seconds

    @cached_property
    def _chats(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=self._timeout_seconds)

    async def prepare(self) -> None:
        """Find the model's name where none was given, and let the server warm up."""
        if self.model is None:
            reply = await asyncio.to_thread(httpx.get, f"{self.base_url}/models", timeout=self._timeout_seconds)
            self.model = reply.raise_for_status().json()["data"][0]["id"]
        await self.complete("Hello", 8)

    @property
    def can_restart(self) -> bool:
        """True for a server that this program has started."""
        return self._restart is not None

    async def restart(self) -> None:
        """End the server and start it anew; it is warm when this returns."""
        assert self._restart is not None
        self.base_url = await asyncio.to_thread(self._restart)
        await self.prepare()

    async def complete(self, prompt: str, max_tokens: int, timing: Timing | None = None) -> Timing:
        """Continue a prompt greedily for exactly max_tokens tokens.

        timing: filled meanwhile; for those who look at it before the end
        """
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        timing = timing or Timing()
        await self._post(json.dumps(body).encode(), timing)
        if not timing.arrivals:
            raise SystemExit(f"{self.base_url} sent no text")
        return timing

    async def _post(self, body: bytes, timing: Timing) -> None:
        """Send a request on a connection of its own and keep the events of its answer."""
        url = httpx.URL(f"{self.base_url}/completions")
        timing.started = time.perf_counter()
        reader, writer = await asyncio.open_connection(url.host, url.port or 80)
        head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc.decode()}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        try:
            status = await self._line(reader)
            if b" 200 " not in status:
                raise SystemExit(f"{self.base_url} answered {status.decode().strip()}: {await reader.read(2000)!r}")
            while (line := await self._line(reader)) and not line.startswith(b"data: [DONE]"):
                if line.startswith(b"data:"):
                    timing.events.append((time.perf_counter(), line))
        finally:
            writer.close()

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(self._timeout_seconds):
            return await reader.readline()

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """The whole reply to a chat request."""
        reply = await self._chats.post(f"{self.base_url}/chat/completions", json={"model": self.model, **body})
        if reply.status_code != httpx.codes.OK:
            raise SystemExit(f"{self.base_url} answered {reply.status_code}: {reply.text[:300]}")
        return reply.json()

    async def complete_all(self, prompts: list[str], max_tokens: int) -> list[Timing]:
        """All at once."""
        return await asyncio.gather(*(self.complete(prompt, max_tokens) for prompt in prompts))
