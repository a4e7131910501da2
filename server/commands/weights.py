"""The commands that write a model's weights anew: in fewer bits, or in another form."""

from typing import Annotated, Literal

import typer

from server.commands.options import ModelName, ModelsDir, settings_of

Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", help="Name in the store, or path of the new folder.", show_default="the model's name and how"
    ),
]
DType = Annotated[
    Literal["float16", "bfloat16", "float32"] | None,
    typer.Option(help="Of what is not packed, and of scales.", show_default="as it is"),
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
    dtype: DType = None,
    output: Output = None,
    models_dir: ModelsDir = None,
) -> None:
    """Write a copy of a model in fewer bits, as an MLX folder.

    Routers of experts, tables of positions and classifiers stay as they are, token vectors and the output head get at
    least 4 bits, and so does what has columns that the group size does not divide. What is packed in as few bits
    already is taken over.
    """
    from engine.conversion.quantize import quantize as quantize_model
    from engine.conversion.rules import Packing
    from server.making import make

    packing = Packing(bits, group_size, mode)
    how = packing.quantization()
    suffix = f"{how.bits}bit" if mode == "affine" else mode
    make(
        model,
        output,
        settings_of(models_dir=models_dir),
        suffix,
        lambda source, target, report: quantize_model(source, target, packing, dtype=dtype, report=report),
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
    from server.making import make

    suffix = "-".join(part for part in ("expanded" if dequantize else "mlx", dtype or "") if part)
    make(
        model,
        output,
        settings_of(models_dir=models_dir),
        suffix,
        lambda source, target, report: convert_model(source, target, dtype=dtype, dequantize=dequantize, report=report),
    )
