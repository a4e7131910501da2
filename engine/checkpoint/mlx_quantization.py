"""The quantised modules of an MLX folder: config.json's `quantization` held against the tensors' shapes.

A module is quantised when its `scales` are there; overrides are keyed by module path, as mlx-lm writes them.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, get_args

from engine.checkpoint.json_object import shown
from engine.checkpoint.mxfp4_blocks import read_blocks
from engine.checkpoint.tensors import Quantization, QuantizationMode, TensorEntry
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

_CONFIG = "config.json"
_SCALES = ".scales"
# mode: (group sizes, bits) that MLX computes with; the defaults come first.
_CHOICES: dict[QuantizationMode, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "affine": ((64, 32, 128), (4, 2, 3, 5, 6, 8)),
    "mxfp4": ((32,), (4,)),
    "mxfp8": ((32,), (8,)),
    "nvfp4": ((16,), (4,)),
}
_AFFINE_SCALES = ("F16", "BF16", "F32")


def choices_of(mode: QuantizationMode) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Group sizes and bits that MLX computes with in a mode; the defaults come first."""
    return _CHOICES[mode]


def read_quantization(config: Mapping[str, Any], tensors: Mapping[str, TensorEntry]) -> dict[str, Quantization]:
    """The quantised modules by path.

    Raises CheckpointUnsupported for another library's quantisation, CheckpointCorrupt when shapes contradict it.
    """
    blocks = read_blocks(tensors)
    if blocks and _method(config) == "mxfp4":
        return blocks
    settings = _settings(config)
    quantized = [name.removesuffix(_SCALES) for name in tensors if name.endswith(_SCALES)]
    quantization = {path: _spec(settings, path) for path in quantized}
    for path, spec in quantization.items():
        _check_shapes(path, spec, tensors)
    return quantization


def settings_of(quantized: Mapping[str, Quantization]) -> dict[str, Any]:
    """config.json's `quantization` for these modules: what most of them have, and the others by path."""
    common = Counter(quantized.values()).most_common(1)[0][0]
    others = {path: _fields(how) for path, how in quantized.items() if how != common}
    return _fields(common) | others


def _fields(how: Quantization) -> dict[str, Any]:
    return {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """MLX's own settings; transformers' quantization_config counts only as the copy that mlx-lm makes of them."""
    own = config.get("quantization")
    other = config.get("quantization_config")
    method = _method(config)
    if method not in (None, "mlx") and other != own:
        value = method[:64] if isinstance(method, str) else type(method).__name__
        raise CheckpointUnsupported("quantization_config.quant_method", value, "MLX's own quantisation, or none")
    settings = other if own is None else own
    if settings is not None and not isinstance(settings, dict):
        raise CheckpointCorrupt(_CONFIG, "quantization is not an object")
    return settings or {}


def _method(config: Mapping[str, Any]) -> Any:
    settings = config.get("quantization_config")
    return settings.get("quant_method") if isinstance(settings, dict) else None


def _spec(settings: dict[str, Any], path: str) -> Quantization:
    override = settings.get(path, True)
    if not settings or override is False:
        raise CheckpointCorrupt(_CONFIG, f"{shown(path)} has scales, but quantization says that it is not packed")
    if override is True:
        return _quantization(settings, "quantization")
    if not isinstance(override, dict):
        raise CheckpointCorrupt(_CONFIG, f"quantization of {shown(path)} is neither an object nor true or false")
    return _quantization(override, f"quantization of {shown(path)}")


def _quantization(fields: dict[str, Any], key: str) -> Quantization:
    """An absent mode is affine, and absent sizes are the mode's own, also inside an override."""
    mode = _choice(fields.get("mode"), get_args(QuantizationMode), f"{key}: mode")
    group_sizes, bits = _CHOICES[mode]
    return Quantization(
        bits=_choice(fields.get("bits"), bits, f"{key}: bits"),
        group_size=_choice(fields.get("group_size"), group_sizes, f"{key}: group_size"),
        mode=mode,
    )


def _choice(value: Any, choices: tuple[Any, ...], key: str) -> Any:
    """One of the choices; the first of them for an absent or null value."""
    if value is None:
        return choices[0]
    if type(value) is not type(choices[0]) or value not in choices:
        raise CheckpointUnsupported(key, value[:32] if isinstance(value, str) else value, ", ".join(map(str, choices)))
    return value


def _check_shapes(path: str, spec: Quantization, tensors: Mapping[str, TensorEntry]) -> None:
    weight, scales = tensors.get(f"{path}.weight"), tensors[path + _SCALES]
    biases = tensors.get(f"{path}.biases")
    if weight is None or weight.dtype != "U32" or len(weight.shape) < 2:
        raise CheckpointCorrupt(scales.file.name, f"{shown(path)} has scales, but no packed weight")
    columns = weight.shape[-1] * 32 // spec.bits
    if scales.shape != (*weight.shape[:-1], columns // spec.group_size):
        raise CheckpointCorrupt(scales.file.name, f"{shown(path)} has scales for other than {spec.bits}-bit weights")
    if columns % spec.group_size:
        raise CheckpointCorrupt(scales.file.name, f"{shown(path)} does not divide into groups of {spec.group_size}")
    if spec.mode == "affine":
        _check_affine(path, scales, biases)
    elif biases is not None or scales.dtype != "U8":
        raise CheckpointCorrupt(scales.file.name, f"{shown(path)} has not the scales of {spec.mode}")


def _check_affine(path: str, scales: TensorEntry, biases: TensorEntry | None) -> None:
    if biases is None or biases.shape != scales.shape or biases.dtype != scales.dtype:
        raise CheckpointCorrupt(scales.file.name, f"{shown(path)} has scales without matching biases")
    if scales.dtype not in _AFFINE_SCALES:
        raise CheckpointCorrupt(scales.file.name, f"{shown(path)} has scales of type {scales.dtype}")
