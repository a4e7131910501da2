"""Thousands of requests of mixed lengths with cancels, and what they leave behind.

    .venv/bin/python scripts/benchmark/soak.py [--requests 10000] [--model FOLDER]

Prints memory and what is held every tenth of the way; at the end nothing may be held, and memory is compared with the
first tenth, after which every buffer has been allocated once.
"""

import argparse
import os
import random
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_mb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 1e6


def main() -> None:
    from engine import Engine
    from engine.requests import GenerationRequest
    from engine.sampling.params import SamplingParams
    from engine.settings import EngineSettings

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument(
        "--model", type=Path, default=ROOT / "tests" / "engine" / "architectures" / "fixtures" / "llama"
    )
    given = parser.parse_args()
    rng = random.Random(1)
    engine = Engine(given.model, EngineSettings(max_rows=8, prefix_bytes=4_000_000))
    live: set[str] = set()
    sent = cancelled = finished = 0
    first = 0.0
    while sent < given.requests or engine.has_work:
        while sent < given.requests and len(live) < 12:
            prompt = tuple(rng.randrange(5, 60) for _ in range(rng.randrange(1, 90)))
            sampling = SamplingParams(max_tokens=rng.randrange(1, 30), temperature=rng.choice([0.0, 1.0]), seed=sent)
            engine.submit(GenerationRequest(str(sent), prompt, sampling))
            live.add(str(sent))
            sent += 1
            if sent % max(1, given.requests // 10) == 0:
                first = first or resident_mb()
                print(f"{sent:7} requests  {resident_mb():8.1f} MB  {engine.stats}", flush=True)
        if live and rng.random() < 0.03:
            gone = rng.choice(sorted(live))
            engine.cancel(gone)
            live.discard(gone)
            cancelled += 1
        for output in engine.step():
            if output.error:
                sys.exit(f"request {output.request_id}: {output.error}")
            if output.finish_reason:
                live.discard(output.request_id)
                finished += 1
    last = resident_mb()
    stats = engine.stats
    print(f"{finished} finished, {cancelled} cancelled; memory {first:.1f} -> {last:.1f} MB ({last / first - 1:+.1%})")
    print(f"rows {stats.num_running}, waiting {stats.num_waiting}, bytes of slots {stats.kv_bytes}")
    sys.exit(0 if finished + cancelled == sent and not stats.kv_bytes and last <= 1.02 * first else 1)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
