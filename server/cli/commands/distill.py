"""The command that teaches a small model what a larger one says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.commands.options import AsJson, ModelName, ModelsDir, settings_of
from server.cli.commands.weights import DType, Output

if TYPE_CHECKING:
    from engine.compression.student import Scratch

Student = Annotated[
    str | None,
    typer.Option(help="Model to begin with, such as a pruned copy of the teacher.", show_default="from scratch"),
]
TrainingText = Annotated[
    Path | None,
    typer.Option(help="A text in UTF-8 to learn from.", show_default="61 kB of a novel, which comes along"),
]
TrainTables = Annotated[
    bool | None,
    typer.Option(
        "--train-tables/--keep-tables", help="Train token vectors and output head.", show_default="from scratch"
    ),
]


def distill(
    teacher: ModelName,
    student: Student = None,
    layers: Annotated[int | None, typer.Option(help="Layers of a student from scratch.", show_default=False)] = None,
    hidden_size: Annotated[
        int | None, typer.Option(help="Hidden size of a student from scratch.", show_default=False)
    ] = None,
    text: TrainingText = None,
    steps: Annotated[int, typer.Option(help="Steps of training, at most.")] = 200,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes of training, at most.", show_default="as long as the steps take")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="The highest learning rate; it rises and falls.")] = 2e-4,
    temperature: Annotated[
        float, typer.Option(help="Divides the logits of both models before they are compared.")
    ] = 1.0,
    cross_entropy: Annotated[float, typer.Option(help="Weight of the text itself against the teacher, 0 to 1.")] = 0.0,
    window: Annotated[int, typer.Option(help="Tokens of a row.")] = 256,
    rows: Annotated[int, typer.Option(help="Rows of the text in a step.")] = 4,
    rows_at_once: Annotated[int, typer.Option(help="Rows in memory at once; gradients add up to the step's.")] = 1,
    tables: TrainTables = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of rows, and of weights from scratch.", min=0)] = 0,
    dtype: DType = None,
    chart: Annotated[Path | None, typer.Option(help="Draw the loss: a .png.", show_default=False)] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what an interrupted run has saved.")] = False,
    output: Output = None,
    as_json: AsJson = False,
    models_dir: ModelsDir = None,
) -> None:
    """Teach a small model what a larger one says about a text; the result is an ordinary model.

    Steps are saved every two minutes and on Ctrl-C: the same command goes on from the last one, also after a kill.
    """
    from engine.compression.training_settings import TrainingSettings
    from engine.evaluation.texts import read_text
    from server.cli.jobs.chart import require_charts
    from server.cli.jobs.teaching import show, teach

    require_charts(chart)
    begun = _begun(student, layers, hidden_size, seed)
    settings = TrainingSettings(
        steps=steps,
        minutes=minutes,
        learning_rate=learning_rate,
        temperature=temperature,
        cross_entropy=cross_entropy,
        window_tokens=window,
        rows=rows,
        rows_at_once=rows_at_once,
        tables=tables,
        seed=seed,
    )
    content = read_text(text, "calibration")
    own = settings_of(models_dir=models_dir)
    name, done = teach(own, teacher, begun, output, content, settings, dtype=dtype, restart=restart)
    show(name, done, as_json=as_json, chart=chart)


def _begun(student: str | None, layers: int | None, hidden_size: int | None, seed: int) -> "str | Scratch":
    from engine.compression.student import Scratch

    if student is not None and layers is None and hidden_size is None:
        return student
    if student is None and layers is not None and hidden_size is not None:
        return Scratch(layers, hidden_size, seed)
    raise typer.BadParameter("say either --student, or --layers and --hidden-size for one from scratch")
