#!/usr/bin/env python3
"""Time the second turn of a long conversation: python scripts/benchmark/turns.py MODEL [--tokens N].

The first turn has N tokens of prompt. The second repeats prompt and answer and adds a question; it is asked of the same
engine, of an engine started anew over the same folder, and with the thoughts of the first answer left out. A line per
case: prompt tokens, tokens found again, milliseconds to the first token, and the same where nothing is stored.
"""

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path
from time import perf_counter

from engine import Engine
from engine.requests import GenerationRequest
from engine.sampling.params import SamplingParams
from engine.settings import EngineSettings

ANSWER_TOKENS = 48
THOUGHT_TOKENS = 24
END_ID = 2  # of a turn, in the random models of the tests


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=4000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(_with_context(given.model, Path(folder) / "model"), given.tokens, Path(folder) / "prefixes")


def measure(model: Path, num_tokens: int, prefixes: Path) -> None:
    """Print a line per case."""
    rng = random.Random(1)
    engine = Engine(model, EngineSettings(prefix_folder=prefixes))
    end = END_ID
    vocab_size = engine.info.vocab_size

    def words(count: int) -> list[int]:
        return [rng.randrange(5, vocab_size) for _ in range(count)]

    prompt = [*words(num_tokens - 4), end, *words(3)]
    answer, _, _ = ask(engine, prompt, ANSWER_TOKENS)
    question = words(40)
    whole = [*prompt, *answer, end, *question]
    shorter = [*prompt, *answer[THOUGHT_TOKENS:], end, *question]
    plain = Engine(model, EngineSettings(prefix_bytes=0))
    print(f"{'case':<28}{'prompt':>8}{'cached':>8}{'ms':>9}{'cold ms':>9}")
    for name, asked in (("second turn", whole), ("thoughts left out", shorter), ("after a restart", whole)):
        if name == "after a restart":
            engine.close()
            engine = Engine(model, EngineSettings(prefix_folder=prefixes))
        text, cached, seconds = ask(engine, asked, 8)
        cold_text, _, cold_seconds = ask(plain, asked, 8)
        assert text == cold_text, "the store changed the answer"
        print(f"{name:<28}{len(asked):>8}{cached:>8}{1000 * seconds:>9.1f}{1000 * cold_seconds:>9.1f}")


def ask(engine: Engine, prompt: list[int], num_tokens: int) -> tuple[list[int], int, float]:
    """The answer, the prompt tokens that were found again, and seconds to the first token."""
    sampling = SamplingParams(max_tokens=num_tokens, temperature=0, ignore_eos=True)
    engine.submit(GenerationRequest("turn", tuple(prompt), sampling))
    tokens: list[int] = []
    cached, first, began = 0, 0.0, perf_counter()
    while engine.has_work:
        for output in engine.step():
            first = first or perf_counter() - began
            cached += output.cached_tokens
            if output.token is not None:
                tokens.append(output.token.token_id)
    return tokens, cached, first


def _with_context(model: Path, target: Path) -> Path:
    """The model with room for long prompts: the random models of the tests have little."""
    shutil.copytree(model, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16384}))
    return target


if __name__ == "__main__":
    main()
