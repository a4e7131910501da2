"""Evaluations as people and programs read them: a table, JSON, a chart."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from engine.evaluation.evaluate import Evaluation
from server.cli.jobs.chart import Chart, Series
from server.sizes import megabytes
from server.terminal.output import note, show_rows


def show(evaluations: Sequence[Evaluation], against: str | None) -> None:
    """A line per model, and a note about each that was interrupted."""
    headings = ["MODEL", "SIZE", "PARAMETERS", "PERPLEXITY", "BITS/BYTE"]
    headings += [] if against is None else ["DIVERGENCE", "TOP-1"]
    show_rows([*headings, "READ TOK/S", "WRITE TOK/S"], [_row(each) for each in evaluations])
    for each in evaluations:
        if each.partial:
            note(f"{each.name}: partial, of the first {each.num_tokens:,} of {each.total_tokens:,} tokens.")
    if not evaluations:
        note("Nothing was measured.")


def as_json_text(evaluations: Sequence[Evaluation], against: str | None, window: int, *, interrupted: bool) -> str:
    """Everything that was measured. Losses in nats, speeds in tokens per second."""
    models = [asdict(each) | {"partial": each.partial} for each in evaluations]
    value = {"against": against, "window": window, "interrupted": interrupted, "models": models}
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def as_chart(evaluations: Sequence[Evaluation]) -> Chart:
    """Size against perplexity, a dot per model."""
    points = [(each.num_bytes / 1e6, each.perplexity) for each in evaluations]
    names = [f"{each.name} (partial)" if each.partial else each.name for each in evaluations]
    label = f"perplexity on {evaluations[0].text} (lower is better)"
    return Chart("Size and quality", "size in MB", label, [Series(points, names=names)])


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
