"""Measure one or several OpenAI-compatible servers side by side: medians over repeats, servers alternating.

Without a URL, a server of this checkout is started for it, with an empty folder of prefixes.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from client import Server
from own import ROOT, own
from peers import peer
from prompts import Prompts, Sizes
from rich.console import Console
from rich.table import Table
from scenarios import SCENARIOS


def main() -> None:
    """Parse the arguments, measure, print a table, write JSON."""
    arguments = _parse()
    with ExitStack() as stack:
        results = asyncio.run(_measure(arguments, _servers(arguments, stack)))
    _print(results)
    if arguments.json:
        report = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.system()} {platform.machine()}, {platform.processor() or 'unknown processor'}",
            "arguments": vars(arguments) | {"json": str(arguments.json)},
            "results": results,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("urls", nargs="*", metavar="URL", help="base URL such as http://127.0.0.1:8080/v1")
    parser.add_argument("--model", help="model name; the default is the first that each server lists, or smollm2-135m")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the table shows medians (default 5)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens generated per stream (default 128)")
    parser.add_argument("--streams", type=int, default=8, help="streams at once (default 8)")
    parser.add_argument("--prompt-tokens", type=int, default=700, help="length of the prefix (default 700)")
    parser.add_argument("--long-prompt-tokens", type=int, default=1500, help="length of the newcomer (default 1500)")
    parser.add_argument("--only", choices=SCENARIOS, action="append", help="measure only this; may be repeated")
    parser.add_argument("--timeout", type=float, default=300, help="seconds without a byte before giving up (300)")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME",
        help="measure this beside the own server: mlx-lm, mlx-lm-float32 (dense, with OpenBLAS), or the path of a "
        "llama-server binary; may be repeated",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the peers (default: one per CPU)")
    parser.add_argument("--json", type=Path, help="write all figures of all rounds to this file")
    arguments = parser.parse_args()
    if (arguments.urls or arguments.peer) and "restart" in (arguments.only or ()):
        parser.error("restart measures a server that is started for it: give no URL and no peer")
    if arguments.urls and arguments.peer:
        parser.error("--peer is measured beside the own server: give no URL")
    return arguments


def _servers(arguments: argparse.Namespace, stack: ExitStack) -> list[Server]:
    if arguments.urls:
        return [Server(url, arguments.model, arguments.timeout, url) for url in arguments.urls]
    model = arguments.model or "smollm2-135m"
    started = stack.enter_context(own(model))
    servers = [Server(started.start(), None, arguments.timeout, "own server", started.start)]
    for name in arguments.peer:
        url, its_name = stack.enter_context(peer(name, ROOT / "models" / model, arguments.threads))
        servers.append(Server(url, its_name, arguments.timeout, Path(name).name))
    return servers


async def _measure(arguments: argparse.Namespace, servers: list[Server]) -> dict[str, dict[str, list[float]]]:
    """Figures by server and name, one per round."""
    sizes = Sizes(arguments.tokens, arguments.prompt_tokens, arguments.long_prompt_tokens, arguments.streams)
    # The same prompts for all servers, yet new in every run: a server may remember those of the last.
    seed = time.time_ns()
    prompts = [Prompts(seed) for _ in servers]
    can_restart = all(server.can_restart for server in servers)
    scenarios = arguments.only or [name for name in SCENARIOS if name != "restart" or can_restart]
    for server, text in zip(servers, prompts, strict=True):
        await server.prepare()
        await text.calibrate(server)
    results: dict[str, dict[str, list[float]]] = {server.name: {} for server in servers}
    for number in range(arguments.repeats):
        for name in scenarios:
            for server, text in zip(servers, prompts, strict=True):
                print(f"\rround {number + 1}/{arguments.repeats} {name:<14}", end="", file=sys.stderr, flush=True)
                for figure, value in (await SCENARIOS[name](server, text, sizes)).items():
                    results[server.name].setdefault(figure, []).append(value)
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return results


def _print(results: dict[str, dict[str, list[float]]]) -> None:
    table = Table("median", *results)
    for figure in next(iter(results.values())):
        table.add_row(figure, *(f"{statistics.median(values[figure]):,.1f}" for values in results.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
