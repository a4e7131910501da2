"""Three models, memory for two, many clients: how often models are loaded, against the least that could be.

    .venv/bin/python scripts/benchmark/residency.py [--requests 300] [--clients 16] [--seed 1]

The clients share one list of requests: whoever has finished one takes the next. So at any time the requests under way
are the next of the list that nobody has finished. The least number of loads is computed over all schedules that could
be, each with knowledge of the whole list: requests for a loaded model are answered at once, the others wait, and a load
may be put off until every client waits. Then the only question is when to load and what to unload for it, and all
answers to it are tried (the state is a place in the list, what is loaded, and how many wait).
"""

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parent.parent.parent
NAMES = ("alpha", "beta", "gamma")


def least_loads(names: list[str], clients: int, loaded_first: str) -> int:
    """Loads of the best schedule, the first model's included, with room for all models but one."""
    models = sorted(set(NAMES))
    sys.setrecursionlimit(100_000)

    @cache
    def rest(place: int, loaded: frozenset[str], waiting: tuple[tuple[str, int], ...]) -> int:
        counts = dict(waiting)
        if place == len(names) and not counts:
            return 0
        ways = []
        if place < len(names) and sum(counts.values()) < clients:
            name = names[place]
            after = counts if name in loaded else counts | {name: counts.get(name, 0) + 1}
            ways.append(rest(place + 1, loaded, tuple(sorted(after.items()))))
        for name in counts:
            left = tuple(sorted(item for item in counts.items() if item[0] != name))
            leaving = [None] if len(loaded) < len(models) - 1 else sorted(loaded)
            ways += [1 + rest(place, loaded - {gone} | {name}, left) for gone in leaving]
        return min(ways)

    return 1 + rest(0, frozenset({loaded_first}), ())


def make_store(folder: Path) -> Path:
    """A store of three models that differ in nothing but their names."""
    sys.path.insert(0, str(ROOT))
    from tokenizers import Tokenizer, models, pre_tokenizers

    from server.store.pull import pull
    from server.store.store import Store

    store = Store(folder / "models")
    for name in NAMES:
        place = folder / name
        shutil.copytree(ROOT / "tests" / "engine" / "architectures" / "fixtures" / "llama", place)
        size = json.loads((place / "config.json").read_text())["vocab_size"]
        words = {f"w{number}": number for number in range(size)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))  # noqa: S106  # no password
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(place / "tokenizer.json"))
        pull(str(place), store)
    return store.root


def start(store: Path, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A server with room for two, which unloads what is idle for two seconds."""
    settings = {"PORT": "0", "MODELS_DIR": store, "MEMORY_FILE": folder / "memory.json", "PREFIX_DISK_GB": "0"}
    settings |= {"KV_GB": "1", "MEMORY_BUDGET_GB": "4", "IDLE_MINUTES": "0.05"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BRAMLEY_")}
    environment |= {f"BRAMLEY_{name}": str(value) for name, value in settings.items()} | {"PYTHONPATH": str(ROOT)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.cli.app", "serve", NAMES[0]],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"(http://\S+)/v1$", line.strip()):
            return process, found.group(1)
    sys.exit((folder / "log").read_text())


async def send_all(url: str, names: list[str], clients: int, tokens: int) -> list[tuple[str, int, float]]:
    """Each request's model, status and seconds."""
    todo = iter(names)
    done: list[tuple[str, int, float]] = []

    async def one_client(client: httpx.AsyncClient) -> None:
        for name in todo:
            began = time.monotonic()
            body = {"model": name, "prompt": [5, 6, 7], "max_tokens": tokens, "ignore_eos": True}
            answer = await client.post("/v1/completions", json=body)
            done.append((name, answer.status_code, time.monotonic() - began))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await asyncio.gather(*(one_client(client) for _ in range(clients)))
    return done


def memory_mb(process: subprocess.Popen[str]) -> float:
    """Of the server and its workers, with shared pages counted once."""
    parent = psutil.Process(process.pid)
    return sum(each.memory_full_info().pss for each in (parent, *parent.children())) / 1e6


def settled_memory_mb(process: subprocess.Popen[str]) -> float:
    """The same when no worker is left."""
    deadline = time.monotonic() + 60
    while psutil.Process(process.pid).children() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    return memory_mb(process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    names = random.Random(given.seed).choices(NAMES, k=given.requests)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process, url = start(make_store(folder), folder)
        try:
            # What is imported, and what the server keeps of its busiest moment.
            asyncio.run(send_all(url, [*NAMES] * given.clients, given.clients, given.tokens))
            before, system_before = settled_memory_mb(process), psutil.virtual_memory().used / 1e6
            loads_before = (folder / "log").read_text().count(" loads in ")
            httpx.post(f"{url}/v1/models/{NAMES[0]}/load", timeout=60)
            began = time.monotonic()
            done = asyncio.run(send_all(url, names, given.clients, given.tokens))
            seconds = time.monotonic() - began
            after, system_after = settled_memory_mb(process), psutil.virtual_memory().used / 1e6
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
        log = (folder / "log").read_text()
    loads = log.count(" loads in ") - loads_before
    least = least_loads(names, given.clients, NAMES[0])
    lost = [each for each in done if each[1] != 200] + [("none", 0, 0.0)] * (given.requests - len(done))
    cut = log.count(" ended with code ")
    print(f"{len(done)} answers in {seconds:.1f} s, longest wait {max(each[2] for each in done):.1f} s")
    print(f"lost {len(lost)}, busy models ended {cut}, exit code {code}")
    print(f"loads {loads}, least possible {least}: {loads / least:.2f} times")
    print(f"server and workers {before:.1f} -> {after:.1f} MB ({after / before - 1:+.1%})")
    print(f"whole machine {system_before:.0f} -> {system_after:.0f} MB ({system_after / system_before - 1:+.1%})")
    good = not lost and not cut and not code and loads <= 1.2 * least and after <= 1.02 * before
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
