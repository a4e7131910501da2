"""The command that measures models on a text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.commands.options import AsJson, ModelsDir, settings_of

if TYPE_CHECKING:
    from engine.evaluation.evaluate import Evaluation


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Models: catalogue ids, Hugging Face repositories (org/name), or paths.", show_default=False
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(help="Model to compare with, for divergence and agreement.", show_default=False),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="A text in UTF-8.", show_default="29 kB of a novel, which comes with Bramley")
    ] = None,
    window: Annotated[int, typer.Option(help="Context of the predictions, in tokens.")] = 512,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens of the text to read.", min=2, show_default="all")
    ] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw size against quality: a .png.", show_default=False)] = None,
    as_json: AsJson = False,
    models_dir: ModelsDir = None,
) -> None:
    """Measure models on a text: perplexity, size and speed; against another model also divergence and agreement.

    Ctrl-C ends the measurement; what was read until then is shown, and marked as partial.
    """
    from engine.evaluation.evaluate import EvaluationSettings
    from engine.evaluation.texts import read_text
    from server.cli.jobs.chart import draw_chart, require_charts
    from server.cli.jobs.measuring import Measuring
    from server.cli.jobs.reports import as_chart, evaluations_as_json, show_evaluations
    from server.exit_codes import INTERRUPTED
    from server.terminal.output import say

    require_charts(chart)
    content = read_text(text, "held_out")
    measuring = Measuring(settings_of(models_dir=models_dir), against)
    found: list[Evaluation] = measuring.run(models, content, EvaluationSettings(window, max_tokens))
    if as_json:
        say(evaluations_as_json(found, against, window, interrupted=measuring.interrupted))
    else:
        show_evaluations(found, against)
    if chart is not None and found:
        draw_chart(chart, as_chart(found))
    if measuring.interrupted:
        raise typer.Exit(INTERRUPTED)
