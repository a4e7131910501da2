"""The commands that write a model's weights anew: in fewer bits, or in another form."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from server.cli.commands.options import ModelName, ModelsDir, settings_of

Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", help="Name in the store, or path of the new folder.", show_default="the model's name and how"
    ),
]
DType = Annotated[
    Literal["float16", "bfloat16", "float32"] | None,
    typer.Option(help="Type of the scales and of unquantized weights.", show_default="as it is"),
]
GroupSize = Annotated[
    int | None,
    typer.Option(help="Weights that share a scale: 32, 64 or 128 (affine).", show_default="64"),
]


def quantize(
    model: ModelName,
    bits: Annotated[int | None, typer.Option(help="8, 6, 5, 4, 3 or 2.", show_default="4")] = None,
    group_size: GroupSize = None,
    mode: Annotated[
        Literal["affine", "mxfp4", "mxfp8", "nvfp4"], typer.Option(help="How weights and scales are stored.")
    ] = "affine",
    recipe: Annotated[
        Literal["plain", "mixed", "mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"],
        typer.Option(help="mixed: as many bits for each matrix as the model loses by it. The others are mlx-lm's."),
    ] = "plain",
    target_size: Annotated[
        str | None,
        typer.Option(
            help="Size of the weights, as 500MB or 4.2GB; for the recipe mixed.", show_default="that of plain 4 bits"
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            help="File of text in UTF-8 to measure with; for mixed.",
            show_default="some of a novel that comes with Bramley",
        ),
    ] = None,
    dtype: DType = None,
    output: Output = None,
    models_dir: ModelsDir = None,
) -> None:
    """Write a copy of a model in fewer bits, as an MLX folder.

    Routers of experts, tables of positions, classifiers, and matrices whose columns the group size does not divide stay
    as they are. Token vectors and the output head get at least 6 bits in affine mode. Matrices that have as few bits
    already, or fewer, are copied unchanged.
    """
    from engine.conversion.quantize import quantize as quantize_model
    from engine.errors import ChoiceInvalid
    from engine.quantization_rules import QuantizationChoice
    from server.cli.jobs.making import make

    if recipe != "mixed" and (target_size is not None or text is not None):
        raise ChoiceInvalid("recipe", f"{recipe} takes no target size and no text; mixed does")
    if recipe != "plain" and (bits is not None or mode != "affine"):
        raise ChoiceInvalid("recipe", f"{recipe} chooses bits and mode by itself")
    if recipe == "mixed":
        _quantize_mixed(model, output, group_size, target_size, text, dtype, models_dir)
        return
    choice = QuantizationChoice(bits, group_size, mode)
    plain = f"{choice.quantization().bits}bit" if mode == "affine" else mode
    name = None if recipe == "plain" else recipe
    make(
        model,
        output,
        settings_of(models_dir=models_dir),
        name or plain,
        lambda source, target, report: quantize_model(source, target, choice, recipe=name, dtype=dtype, report=report),
    )


def _quantize_mixed(
    model: str,
    output: str | None,
    group_size: int | None,
    target_size: str | None,
    text: Path | None,
    dtype: str | None,
    models_dir: Path | None,
) -> None:
    from engine.conversion.mixed import quantize_mixed
    from engine.errors import ChoiceInvalid
    from engine.evaluation.texts import read_text
    from server.cli.jobs.making import bytes_of_size, make

    if group_size is not None:
        raise ChoiceInvalid("group size", "mixed chooses it by itself")
    size = None if target_size is None else bytes_of_size(target_size)
    sample = None if text is None else read_text(text, "calibration")
    make(
        model,
        output,
        settings_of(models_dir=models_dir),
        "mixed" if target_size is None else f"mixed-{target_size.lower()}",
        lambda source, target, report: quantize_mixed(
            source, target, target_bytes=size, text=sample, dtype=dtype, report=report
        ),
    )


def convert(
    model: ModelName,
    dtype: DType = None,
    dequantize: Annotated[
        bool, typer.Option("--dequantize", help="Expand packed weights: an ordinary safetensors folder.")
    ] = False,
    output: Output = None,
    models_dir: ModelsDir = None,
) -> None:
    """Write a model as an MLX folder: GGUF, GPTQ, AWQ or safetensors, packed weights without loss.

    PyTorch's .bin files are pickles, which may run code when they are read, and are refused.
    """
    from engine.conversion.quantize import convert as convert_model
    from server.cli.jobs.making import make

    suffix = "-".join(part for part in ("expanded" if dequantize else "mlx", dtype or "") if part)
    make(
        model,
        output,
        settings_of(models_dir=models_dir),
        suffix,
        lambda source, target, report: convert_model(source, target, dtype=dtype, dequantize=dequantize, report=report),
    )
