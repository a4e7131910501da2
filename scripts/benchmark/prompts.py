"""Texts to ask with, new in every round so that no cache warms them, and how much is asked."""

import random
import re
from dataclasses import dataclass

from client import Server

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
        self._random = random.Random(seed)  # text, not a secret
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
