"""What is measured, one function per figure or two. Prompts are new in every round, so that no cache warms them."""

import asyncio
import random
import re
from dataclasses import dataclass
from itertools import pairwise

from client import Server, Timing

_WORDS = re.findall(
    r"\w+",
    "river stone window garden letter silver morning paper village winter engine harbour candle forest bridge "
    "music summer kitchen mountain station evening captain island weather teacher market shadow feather copper",
)


@dataclass(frozen=True)
class Sizes:
    """Lengths in tokens, counts in streams."""

    tokens: int
    prompt_tokens: int
    long_prompt_tokens: int
    streams: int


class Prompts:
    """English-looking text of about a given number of tokens, different every time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # text, not a secret
        self._tokens_per_word = 1.0

    async def calibrate(self, server: Server) -> None:
        """Learn how many tokens this server's tokenizer makes of a word."""
        timing = await server.complete(self._words(200), 1)
        self._tokens_per_word = (timing.prompt_tokens or 200) / 200

    def text(self, tokens: int) -> str:
        """About that many tokens."""
        return self._words(max(1, round(tokens / self._tokens_per_word)))

    def _words(self, count: int) -> str:
        return " ".join(self._random.choice(_WORDS) for _ in range(count))


async def single_stream(server: Server, prompts: Prompts, sizes: Sizes) -> dict[str, float]:
    """One short prompt, one stream."""
    timing = await server.complete(prompts.text(16), sizes.tokens)
    return {"decode tokens/s, one stream": timing.decode_tokens_per_second, "TTFT ms, short": _ms(timing)}


async def many_streams(server: Server, prompts: Prompts, sizes: Sizes) -> dict[str, float]:
    """Several short prompts at once."""
    timings = await server.complete_all([prompts.text(16) for _ in range(sizes.streams)], sizes.tokens)
    elapsed = max(each.arrivals[-1] for each in timings) - min(each.started for each in timings)
    total = sum(each.completion_tokens for each in timings)
    return {f"total tokens/s, {sizes.streams} streams": total / elapsed}


async def prefix(server: Server, prompts: Prompts, sizes: Sizes) -> dict[str, float]:
    """A long system prompt, read once, then again before another question."""
    system = prompts.text(sizes.prompt_tokens)
    cold = await server.complete(f"{system}\n{prompts.text(12)}", 2)
    warm = await server.complete(f"{system}\n{prompts.text(12)}", 2)
    return {
        "prefill tokens/s, cold": cold.prompt_tokens / cold.first_token_seconds,
        f"TTFT ms, {sizes.prompt_tokens} tokens cold": _ms(cold),
        f"TTFT ms, {sizes.prompt_tokens} tokens warm": _ms(warm),
    }


async def interference(server: Server, prompts: Prompts, sizes: Sizes) -> dict[str, float]:
    """Four streams run; a long prompt arrives. How long is the longest silence, and what does the newcomer pay?"""
    alone = await server.complete(prompts.text(sizes.long_prompt_tokens), 2)
    streams = [asyncio.create_task(server.complete(prompts.text(16), max(sizes.tokens * 4, 128))) for _ in range(4)]
    await asyncio.sleep(max(0.5, alone.first_token_seconds / 10))
    newcomer = await server.complete(prompts.text(sizes.long_prompt_tokens), 2)
    timings = await asyncio.gather(*streams)
    return {
        "worst gap ms, 4 streams + long prompt": max(_longest_gap_ms(each, newcomer) for each in timings),
        "TTFT ms, long prompt alone": _ms(alone),
        "TTFT ms, long prompt beside 4 streams": _ms(newcomer),
    }


SCENARIOS = {"single": single_stream, "many": many_streams, "prefix": prefix, "interference": interference}


def _ms(timing: Timing) -> float:
    return timing.first_token_seconds * 1000


def _longest_gap_ms(timing: Timing, newcomer: Timing) -> float:
    """The longest silence that touches the time in which the newcomer was read; the whole of it if nothing came."""
    end = newcomer.arrivals[0]
    gaps = [after - before for before, after in pairwise(timing.arrivals) if after > newcomer.started and before < end]
    return max(gaps, default=end - newcomer.started) * 1000
