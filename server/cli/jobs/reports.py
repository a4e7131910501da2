"""Reports on models that were measured or pruned: lines and tables for people, JSON for programs, a chart."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from engine.compression.prune import Pruned
from engine.evaluation.evaluate import Evaluation
from server.cli.jobs.chart import Chart, Series
from server.sizes import megabytes
from server.terminal.output import note, say, show_rows


def show_evaluations(evaluations: Sequence[Evaluation], against: str | None) -> None:
    """A line per model, and a note about each that was interrupted."""
    headings = ["MODEL", "SIZE", "PARAMETERS", "PERPLEXITY", "BITS/BYTE"]
    headings += [] if against is None else ["DIVERGENCE", "TOP-1"]
    show_rows([*headings, "READ TOK/S", "WRITE TOK/S"], [_row(each) for each in evaluations])
    for each in evaluations:
        if each.partial:
            note(f"{each.name}: partial, of the first {each.num_tokens:,} of {each.total_tokens:,} tokens.")
    if not evaluations:
        note("Nothing was measured.")


def evaluations_as_json(
    evaluations: Sequence[Evaluation], against: str | None, window: int, *, interrupted: bool
) -> str:
    """All figures of the evaluations. Losses in nats, speeds in tokens per second."""
    models = [asdict(each) | {"partial": each.partial} for each in evaluations]
    value = {"against": against, "window": window, "interrupted": interrupted, "models": models}
    return _indented(value)


def as_chart(evaluations: Sequence[Evaluation]) -> Chart:
    """Size against perplexity, a dot per model."""
    points = [(each.num_bytes / 1e6, each.perplexity) for each in evaluations]
    names = [f"{each.name} (partial)" if each.partial else each.name for each in evaluations]
    label = f"perplexity on {evaluations[0].text} (lower is better)"
    return Chart("Size and quality", "size in MB", label, [Series(points, names=names)])


def show_pruned(pruned: Pruned, name: str, output: str) -> None:
    """Say which parts were removed, and how large the model was and is."""
    if pruned.influence:
        removed = set(pruned.removed_layers)
        say("Influence of each layer (1 - cosine of what goes in and what comes out):")
        for layer, influence in enumerate(pruned.influence):
            say(f"  {layer:3d}  {influence:.4f}{'  removed' if layer in removed else ''}")
        numbers = ", ".join(map(str, pruned.removed_layers)) or "none"
        say(f"Layers: {pruned.num_layers} to {pruned.num_layers - len(removed)}, without {numbers}.")
    if pruned.inner_size is not None:
        say(f"Neurons of each feed-forward layer: {pruned.inner_size[0]} to {pruned.inner_size[1]}.")
    if pruned.kv_heads is not None:
        say(f"Groups of heads in each layer: {pruned.kv_heads[0]} to {pruned.kv_heads[1]}.")
    parameters, sizes = pruned.num_parameters, pruned.num_bytes
    say(f"Parameters: {parameters[0] / 1e6:,.1f} M to {parameters[1] / 1e6:,.1f} M.")
    say(f"{output} is here: {megabytes(sizes[1])}; {name} has {megabytes(sizes[0])}.")


def pruned_as_json(pruned: Pruned, output: str) -> str:
    """All figures of a pruned model. Pairs are before and after; sizes in bytes."""
    value = asdict(pruned) | {"output": output}
    return _indented(value)


def _indented(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _row(each: Evaluation) -> list[str]:
    compared: list[Any] = []
    if each.divergence is not None and each.agreement is not None:
        compared = [f"{each.divergence:.4f}", f"{each.agreement:.1%}"]
    return [
        each.name,
        megabytes(each.num_bytes),
        f"{each.num_parameters / 1e6:,.1f} M",
        f"{each.perplexity:.2f}" + (" (partial)" if each.partial else ""),
        f"{each.bits_per_byte:.3f}",
        *compared,
        f"{each.read_speed:.0f}",
        "-" if each.write_speed is None else f"{each.write_speed:.1f}",
    ]
