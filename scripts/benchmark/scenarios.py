"""What is measured, one function per figure or two. Prompts are new in every round, so that no cache warms them."""

import asyncio
from itertools import pairwise

from client import Server, Timing
from prompts import Prompts, Sizes
from structured import structured

_OUTLASTING_TOKENS = 1500
_STEADY_TOKENS = 8
_SETTLING_SECONDS = 1.0  # until a server has noticed that its clients are gone


async def single_stream(server: Server, prompts: Prompts, sizes: Sizes) -> dict[str, float]:
    """One short prompt, one stream."""
    timing = await server.complete(prompts.text(16), sizes.tokens)
    return {"decode tokens/s, one stream": timing.decode_tokens_per_second, "TTFT ms, short": _ms(timing)}


async def many_streams(server: Server, prompts: Prompts, sizes: Sizes) -> dict[str, float]:
    """One short prompt, then several at once; the time to their first tokens counts."""
    one = await _total_per_second(server, prompts, sizes.tokens, 1)
    many = await _total_per_second(server, prompts, sizes.tokens, sizes.streams)
    return {
        "total tokens/s, 1 stream": one,
        f"total tokens/s, {sizes.streams} streams": many,
        f"{sizes.streams} streams to one, times": many / one,
    }


async def _total_per_second(server: Server, prompts: Prompts, tokens: int, count: int) -> float:
    timings = await server.complete_all([prompts.text(16) for _ in range(count)], tokens)
    elapsed = max(each.arrivals[-1] for each in timings) - min(each.started for each in timings)
    return sum(each.completion_tokens for each in timings) / elapsed


async def prefix(server: Server, prompts: Prompts, sizes: Sizes) -> dict[str, float]:
    """A long system prompt, read once, then again before another question."""
    system = prompts.text(sizes.prompt_tokens)
    cold = await server.complete(f"{system}\n{prompts.text(12)}", 2)
    warm = await server.complete(f"{system}\n{prompts.text(12)}", 2)
    return {
        "prefill tokens/s, cold": cold.prompt_tokens / cold.first_token_seconds,
        f"TTFT ms, {sizes.prompt_tokens} tokens cold": _ms(cold),
        f"TTFT ms, {sizes.prompt_tokens} tokens warm": _ms(warm),
        "warm to cold, %": 100 * _ms(warm) / _ms(cold),
    }


async def restart(server: Server, prompts: Prompts, sizes: Sizes) -> dict[str, float]:
    """A long system prompt, read once; the server ends and starts again; another question after the same prompt."""
    system = prompts.text(sizes.prompt_tokens)
    cold = await server.complete(f"{system}\n{prompts.text(12)}", 2)
    await server.restart()
    after = await server.complete(f"{system}\n{prompts.text(12)}", 2)
    return {
        f"TTFT ms, {sizes.prompt_tokens} tokens before a restart": _ms(cold),
        f"TTFT ms, {sizes.prompt_tokens} tokens after it": _ms(after),
        "after to before, %": 100 * _ms(after) / _ms(cold),
    }


async def interference(server: Server, prompts: Prompts, sizes: Sizes) -> dict[str, float]:
    """Four streams run; a long prompt arrives. How long is the longest silence, and what does the newcomer pay?"""
    before = await server.complete(prompts.text(sizes.long_prompt_tokens), 2)
    timings = [Timing() for _ in range(4)]
    # Longer than the newcomer takes: they are left when it has its first token.
    streams = [asyncio.create_task(server.complete(prompts.text(16), _OUTLASTING_TOKENS, each)) for each in timings]
    await asyncio.gather(*(_steady(each, stream) for each, stream in zip(timings, streams, strict=True)))
    newcomer = await server.complete(prompts.text(sizes.long_prompt_tokens), 2)
    num_outlasting = sum(not stream.done() for stream in streams)
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    await asyncio.sleep(_SETTLING_SECONDS)
    after = await server.complete(prompts.text(sizes.long_prompt_tokens), 2)
    alone_ms = (_ms(before) + _ms(after)) / 2
    return {
        "worst gap ms, 4 streams + long prompt": max(_longest_gap_ms(each, newcomer) for each in timings),
        "TTFT ms, long prompt alone": alone_ms,
        "TTFT ms, long prompt beside 4 streams": _ms(newcomer),
        "beside to alone, times": _ms(newcomer) / alone_ms,
        "streams that outlasted it, of 4": num_outlasting,
    }


async def _steady(timing: Timing, stream: asyncio.Task[Timing]) -> None:
    while len(timing.events) <= _STEADY_TOKENS and not stream.done():  # noqa: ASYNC110  # a list has no event
        await asyncio.sleep(0.02)


SCENARIOS = {
    "single": single_stream,
    "many": many_streams,
    "prefix": prefix,
    "interference": interference,
    "restart": restart,
    "structured": structured,
}


def _ms(timing: Timing) -> float:
    return timing.first_token_seconds * 1000


def _longest_gap_ms(timing: Timing, newcomer: Timing) -> float:
    """The longest silence that touches the time in which the newcomer was read; the whole of it if nothing came."""
    end = newcomer.arrivals[0]
    gaps = [after - before for before, after in pairwise(timing.arrivals) if after > newcomer.started and before < end]
    return max(gaps, default=end - newcomer.started) * 1000
