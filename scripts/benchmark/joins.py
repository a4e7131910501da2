"""What a join and a leave cost a batch of sixteen, in decode steps.

    .venv/bin/python scripts/benchmark/joins.py MODEL

MODEL is a folder or a .gguf file. Fifteen rows decode; a sixteenth joins with a prompt of one token, and leaves again.
A join's cost is what the steps around it take beyond plain decode steps of fifteen and sixteen rows.
"""

import argparse
import statistics
import sys
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parent.parent.parent
ROUNDS, ROWS, PLAIN_STEPS = 7, 15, 6


def main() -> None:
    from engine import Engine
    from engine.requests import GenerationRequest
    from engine.sampling.params import SamplingParams
    from engine.settings import EngineSettings

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    engine = Engine(parser.parse_args().model, EngineSettings(prefix_bytes=0))
    endless = SamplingParams(max_tokens=1000, temperature=0, ignore_eos=True)
    for number in range(ROWS):
        engine.submit(GenerationRequest(f"row {number}", tuple(range(5, 45 + number)), endless))
    _steps(engine, 20)
    plain, joins, leaves = [], [], []
    for number in range(ROUNDS):
        plain.append(_steps(engine, PLAIN_STEPS) / PLAIN_STEPS)
        engine.submit(GenerationRequest(f"guest {number}", (7,), endless))
        # A step that reads it, a call that only tells its first token, and the first step that decodes it.
        joins.append(_steps(engine, 3))
        with_guest = _steps(engine, PLAIN_STEPS) / PLAIN_STEPS
        joins[-1] -= 2 * with_guest
        engine.cancel(f"guest {number}")
        leaves.append(_steps(engine, 2) - 2 * plain[-1])
    step = statistics.median(plain)
    print(f"a decode step of {ROWS} rows: {1000 * step:.1f} ms")
    print(f"a join: {1000 * statistics.median(joins):+.1f} ms, {statistics.median(joins) / step:+.2f} steps")
    print(f"a leave: {1000 * statistics.median(leaves):+.1f} ms, {statistics.median(leaves) / step:+.2f} steps")


def _steps(engine, count: int) -> float:
    start = perf_counter()
    for _ in range(count):
        engine.step()
    return perf_counter() - start


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
