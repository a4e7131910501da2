"""The command that makes a model smaller by leaving parts of it out."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from server.cli.commands.options import AsJson, ModelName, ModelsDir, settings_of
from server.cli.commands.weights import Output

Only = Literal["mlp", "attention"]


def prune(
    model: ModelName,
    keep_layers: Annotated[
        int | None, typer.Option(help="How many layers stay: those that change most.", show_default="all")
    ] = None,
    sparsity: Annotated[
        float, typer.Option(help="Share of each layer's neurons and groups of heads to leave out, 0 to 0.95.")
    ] = 0.0,
    only: Annotated[
        Only | None, typer.Option(help="Where the sparsity applies: mlp or attention.", show_default="both")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="A text in UTF-8 to measure on.", show_default="61 kB of a novel, which comes along"),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of the text to read.", min=2)] = 8192,
    output: Output = None,
    as_json: AsJson = False,
    models_dir: ModelsDir = None,
) -> None:
    """Write a smaller copy of a model, without the layers, neurons and heads that matter least on a text.

    What stays is copied as it is, packed weights too. `bramley distill` teaches the copy what it has lost.
    """
    from engine.compression.prune import PruningSettings, prune
    from engine.device import prepare_device
    from engine.evaluation.texts import read_text
    from server.cli.find import store_of
    from server.cli.jobs.new_model import name_after, new_model, source_of
    from server.cli.jobs.reports import pruned_as_json, show_pruned
    from server.terminal.output import say
    from server.terminal.progress import progress_report

    settings = settings_of(models_dir=models_dir)
    content, store = read_text(text, "calibration"), store_of(settings)
    source = source_of(model, store)
    parts: tuple[Only, ...] = ("mlp", "attention") if only is None else (only,)
    choice = PruningSettings(keep_layers, sparsity, parts, max_tokens=max_tokens)
    device = prepare_device(settings.kernels, settings.threads)
    with (
        new_model(output or name_after(source, "pruned"), store, source, "pruned") as target,
        progress_report(source.id) as report,
    ):
        pruned = prune(source.path, target.path, content, choice, device, report)
    if as_json:
        say(pruned_as_json(pruned, target.name))
    else:
        show_pruned(pruned, source.id, target.name)
