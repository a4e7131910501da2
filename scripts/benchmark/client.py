"""One streamed completion, timed. Knows the wire format; knows no scenario."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx


@dataclass
class Timing:
    """When things happened, in seconds on one clock.

    started: the request was sent; arrivals: each piece of text; prompt_tokens, completion_tokens: as the server counts
    """

    started: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def first_token_seconds(self) -> float:
        """From the request to its first text."""
        return self.arrivals[0] - self.started

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first, over the time after the first."""
        return (self.completion_tokens - 1) / (self.arrivals[-1] - self.arrivals[0])


class Server:
    """An OpenAI-compatible server and the model it is asked for.

    restart: ends it, starts it anew with the same folders, and returns its base URL; None for others' servers
    """

    def __init__(
        self, base_url: str, model: str | None, timeout_seconds: float, restart: Callable[[], str] | None = None
    ) -> None:
        self.name = "own server" if restart else base_url
        self.base_url = base_url.rstrip("/")
        self.model = model
        self._restart = restart
        self._http = httpx.AsyncClient(timeout=timeout_seconds, limits=httpx.Limits(max_connections=None))

    async def prepare(self) -> None:
        """Find the model's name where none was given, and let the server warm up."""
        if self.model is None:
            reply = await self._http.get(f"{self.base_url}/models")
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
        timing.started = time.perf_counter()
        async with self._http.stream("POST", f"{self.base_url}/completions", json=body) as reply:
            if reply.status_code != httpx.codes.OK:
                raise SystemExit(
                    f"{self.base_url} answered {reply.status_code}: {(await reply.aread()).decode()[:300]}"
                )
            async for line in reply.aiter_lines():
                _take(line, timing)
        if not timing.arrivals:
            raise SystemExit(f"{self.base_url} sent no text")
        timing.completion_tokens = timing.completion_tokens or len(timing.arrivals)
        return timing

    async def complete_all(self, prompts: list[str], max_tokens: int) -> list[Timing]:
        """All at once."""
        return await asyncio.gather(*(self.complete(prompt, max_tokens) for prompt in prompts))


def _take(line: str, timing: Timing) -> None:
    if not line.startswith("data:") or line.removeprefix("data:").strip() == "[DONE]":
        return
    event = json.loads(line.removeprefix("data:"))
    if event.get("error"):
        raise SystemExit(f"the stream ended with an error: {event['error']}")
    if any(choice.get("text") for choice in event.get("choices", [])):
        timing.arrivals.append(time.perf_counter())
    usage = event.get("usage")
    if usage:
        timing.prompt_tokens = usage["prompt_tokens"]
        timing.completion_tokens = usage["completion_tokens"]
