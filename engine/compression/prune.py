"""Make a model smaller by leaving out what matters least on a text: layers, neurons, groups of heads.

Weights that stay are copied as they are, quantised ones too: nothing is computed or rounded anew.
"""

from engine.evaluation.decoder import LoadedDecoder, load_decoder  # isort: skip  # first: loads the BLAS before mlx

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx

from engine.checkpoint.tensors import Quantization
from engine.compression.cuts import Channels, Cut, squared_columns
from engine.compression.importance import measure_energy, most_important, require_parts
from engine.compression.influence import measure_influence
from engine.compression.pruned_config import pruned_config
from engine.compression.stack import layers_of, require_own_layers
from engine.conversion.errors import OutputExists
from engine.conversion.folder_writer import TensorSpec, writing
from engine.conversion.plan import Matrix, Plan
from engine.conversion.quantization import dequantize_values, quantized_specs
from engine.conversion.rewrite import files_of, new_config
from engine.conversion.tensor_reader import TensorReader
from engine.device import Device
from engine.errors import CheckpointUnsupported, ChoiceInvalid
from engine.evaluation.errors import ModelUnfit
from engine.evaluation.texts import Text, cut_windows
from engine.model import outline
from engine.progress import Progress, Report, unheard

Part = Literal["mlp", "attention"]
_WIDTH_STEPS = (64, 32, 16, 8)  # a width that divides by one of them can be quantised, and suits the kernels


@dataclass(frozen=True, slots=True)
class PruningSettings:
    """The amount to prune, and by which measure.

    keep_layers: how many layers stay; None keeps all
    sparsity: share of what is inside of each layer, 0 to 0.95
    parts: where: neurons of the feed-forward part, groups of heads that share keys and values, or both
    window_tokens, max_tokens: how the text is read
    """

    keep_layers: int | None = None
    sparsity: float = 0.0
    parts: tuple[Part, ...] = ("mlp", "attention")
    window_tokens: int = 512
    max_tokens: int | None = 8192


@dataclass(frozen=True, slots=True)
class Pruned:
    """The pruned model's sizes, and the parts that were left out. Bytes are of tensors.

    influence: of every layer of the old model, where it was measured
    removed_layers: their numbers
    inner_size, kv_heads: of each layer, before and after
    """

    num_layers: int
    removed_layers: tuple[int, ...]
    influence: tuple[float, ...]
    inner_size: tuple[int, int] | None
    kv_heads: tuple[int, int] | None
    num_parameters: tuple[int, int]
    num_bytes: tuple[int, int]


def prune(
    source: Path, target: Path, text: Text, settings: PruningSettings, device: Device, report: Report = unheard
) -> Pruned:
    """Write a smaller copy of the model at `source` to the folder `target`.

    Raises CheckpointError, ChoiceInvalid, ConversionError and CompressionError.
    """
    if os.path.lexists(target):
        raise OutputExists(target.name)
    _check(settings)
    decoder = load_decoder(
        source, device, lambda done, total: report(Progress("loading", done // 10**6, total // 10**6, "MB"))
    )
    require_own_layers(decoder.model, decoder.checkpoint.config, decoder.name)
    num_layers = len(layers_of(decoder.model, decoder.name))
    if settings.keep_layers is not None and not 1 <= settings.keep_layers <= num_layers:
        raise ChoiceInvalid("keep-layers", f"{settings.keep_layers} is not between 1 and {num_layers}, the model's own")
    plan = Plan(TensorReader(decoder.checkpoint))
    window = min(settings.window_tokens, decoder.context_length or settings.window_tokens)
    windows = cut_windows(text, decoder.tokenizer, window, settings.max_tokens)
    influence: list[float] = []
    layers = list(range(num_layers))
    if settings.keep_layers is not None:
        influence = measure_influence(decoder, windows, report)
        layers = sorted(sorted(layers, key=lambda layer: -influence[layer])[: settings.keep_layers])
    cut = Cut(tuple(layers), _channels(decoder, plan, windows, layers, settings, report))
    return _write(plan, decoder, target, cut, influence, report)


def _check(settings: PruningSettings) -> None:
    if not 0.0 <= settings.sparsity <= 0.95:
        raise ChoiceInvalid("sparsity", f"{settings.sparsity:g} is not between 0 and 0.95")
    if settings.keep_layers is None and settings.sparsity == 0.0:
        raise ChoiceInvalid("keep-layers", "say how many layers shall stay, or a sparsity")


def _channels(
    decoder: LoadedDecoder,
    plan: Plan,
    windows: Sequence[Sequence[int]],
    layers: Sequence[int],
    settings: PruningSettings,
    report: Report,
) -> list[Mapping[str, Channels]]:
    """The channels that stay, per kept layer; an empty list where all do."""
    if settings.sparsity == 0.0:
        return []
    sizes = _Sizes.of(plan, settings, decoder.name)
    if not sizes.narrower:
        raise ChoiceInvalid("sparsity", f"{settings.sparsity:g} is too little to leave out a single part")
    mlp, attention = sizes.keep_runs < sizes.num_runs, sizes.keep_groups < sizes.num_groups
    require_parts(decoder.model, decoder.name, mlp=mlp, attention=attention)
    energies = measure_energy(decoder, windows, layers, report, mlp=mlp, attention=attention)
    norms = _norms(plan, layers, mlp=mlp, attention=attention)
    chosen: list[dict[str, Channels]] = [{} for _ in layers]
    for place, energy in enumerate(energies[0]):
        scores = mx.sqrt(energy * norms["down_proj"][layers[place]])
        runs = most_important(scores, sizes.run, sizes.keep_runs)
        chosen[place]["neurons"] = Channels(tuple(runs), sizes.run)
    for place, energy in enumerate(energies[1]):
        scores = mx.sqrt(energy * norms["o_proj"][layers[place]])
        groups = most_important(scores, sizes.group_columns, sizes.keep_groups)
        chosen[place]["heads"] = Channels(tuple(groups), sizes.group_columns)
        chosen[place]["groups"] = Channels(tuple(groups), sizes.head_dim)
    return list(chosen)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The numbers of runs of neurons and of groups of heads, before and after.

    run: neurons that stay or go together: one, or a quantised group
    group_columns: columns of the output projection that belong to one group of heads
    """

    run: int
    num_runs: int
    keep_runs: int
    group_columns: int
    head_dim: int
    num_groups: int
    keep_groups: int

    @property
    def narrower(self) -> bool:
        """True when something goes."""
        return self.keep_runs < self.num_runs or self.keep_groups < self.num_groups

    @classmethod
    def of(cls, plan: Plan, settings: PruningSettings, name: str) -> "_Sizes":
        config, keep = plan.checkpoint.config, 1.0 - settings.sparsity
        down, output = (_projections(plan, each) for each in ("down_proj", "o_proj"))
        if not down or not output:
            raise ModelUnfit(name, "has no down_proj and o_proj: only whole layers can be removed")
        inner, columns = down[0].shape[-1], output[0].shape[-1]
        run = max((each.quantization.group_size for each in down if each.quantization is not None), default=1)
        step = max(run, next((each for each in _WIDTH_STEPS if inner % each == 0), 1))
        keep_inner = max(step, round(inner * keep / step) * step) if "mlp" in settings.parts else inner
        num_heads = config["num_attention_heads"]
        num_groups = config.get("num_key_value_heads") or num_heads
        keep_groups = max(1, round(num_groups * keep)) if "attention" in settings.parts else num_groups
        group_size = max((each.quantization.group_size for each in output if each.quantization is not None), default=1)
        if keep_groups < num_groups and columns // num_groups % group_size:
            raise ModelUnfit(name, f"has quantized groups of {group_size} that heads share: convert it to floats first")
        return cls(
            run, inner // run, keep_inner // run, columns // num_groups, columns // num_heads, num_groups, keep_groups
        )


def _projections(plan: Plan, module: str) -> list[Matrix]:
    return [each for each in plan.matrices if each.module is not None and each.own.endswith(f".{module}")]


def _norms(plan: Plan, layers: Sequence[int], *, mlp: bool, attention: bool) -> dict[str, dict[int, mx.array]]:
    """Squared lengths of the columns of the projections back, by module and layer."""
    wanted = [*(["down_proj"] if mlp else []), *(["o_proj"] if attention else [])]
    found: dict[str, dict[int, mx.array]] = {module: {} for module in wanted}
    for unit in plan.units:
        for matrix in unit.matrices:
            module, layer = matrix.own.rpartition(".")[2], matrix.layer
            if module not in found or matrix.module is None or layer is None or layer not in layers:
                continue
            arrays = _arrays(plan.arrays(unit), matrix)
            values = (
                arrays["weight"]
                if matrix.quantization is None
                else dequantize_values(arrays, matrix.quantization, mx.float32)
            )
            found[module][layer] = squared_columns(values)
            mx.eval(found[module][layer])
    return found


def _arrays(arrays: Mapping[str, mx.array], matrix: Matrix) -> dict[str, mx.array]:
    names = {part: f"{matrix.own}.{part}" for part in ("weight", "scales", "biases")}
    found = {part: arrays[name] for part, name in names.items() if name in arrays}
    return found or {"weight": arrays[matrix.own]}


def _write(
    plan: Plan, decoder: LoadedDecoder, target: Path, cut: Cut, influence: Sequence[float], report: Report
) -> Pruned:
    checkpoint = plan.checkpoint
    shaped = {matrix.name: cut.shaped(matrix) for matrix in plan.matrices}
    kept = [matrix for matrix in shaped.values() if matrix is not None]
    quantized: dict[str, Quantization] = {
        each.path: each.quantization for each in kept if each.quantization is not None
    }
    config = pruned_config(checkpoint.config, cut, decoder.model.windows, decoder.name)
    _verify(plan, config, cut, decoder)
    config = new_config(replace(checkpoint, config=config), quantized, None)
    specs = [spec for matrix in kept for spec in _specs(matrix)]
    made_by: Any = "mlx" if quantized else "pt"
    with writing(target, specs, config, files_of(checkpoint), made_by=made_by) as writer:
        for unit in plan.units:
            wanted = [matrix for matrix in unit.matrices if shaped[matrix.name] is not None]
            arrays = plan.arrays(unit) if wanted else {}
            for matrix in wanted:
                new = shaped[matrix.name]
                assert new is not None
                for part, array in cut.apply(matrix, _arrays(arrays, matrix)).items():
                    writer.write(new.name if matrix.quantization is None else f"{new.path}.{part}", array)
            report(Progress("writing", writer.num_bytes // 10**6, writer.total_bytes // 10**6, "MB"))
    return _summary(plan, cut, kept, influence, len(decoder.model.windows), sum(spec.num_bytes for spec in specs))


def _specs(matrix: Matrix) -> list[TensorSpec]:
    if matrix.quantization is None:
        return [TensorSpec(matrix.name, matrix.shape, matrix.dtype)]
    return quantized_specs(matrix.path, matrix.shape, matrix.quantization, matrix.dtype)


def _verify(plan: Plan, config: Mapping[str, Any], cut: Cut, decoder: LoadedDecoder) -> None:
    """Have the family itself say whether the kept layers are the same in their new places. Raises ModelUnfit."""
    names = {new: entry for name, entry in plan.checkpoint.tensors.items() if (new := cut.new_name(name)) is not None}
    try:
        model: Any = outline(replace(plan.checkpoint, config=dict(config), tensors=names))
    except CheckpointUnsupported as error:
        raise ModelUnfit(decoder.name, f"does not allow it: {error}") from None
    if model.windows != [decoder.model.windows[layer] for layer in cut.layers]:
        raise ModelUnfit(decoder.name, "computes its layers by their number: none can be left out")


def _summary(
    plan: Plan, cut: Cut, kept: Sequence[Matrix], influence: Sequence[float], num_layers: int, num_bytes: int
) -> Pruned:
    config, channels = plan.checkpoint.config, cut.channels[0] if cut.channels else {}
    inner = kv_heads = None
    if "neurons" in channels:
        inner = config["intermediate_size"], channels["neurons"].num_channels
    if "groups" in channels:
        kv_heads = config.get("num_key_value_heads") or config["num_attention_heads"], len(channels["groups"].kept)
    return Pruned(
        num_layers=num_layers,
        removed_layers=tuple(layer for layer in range(num_layers) if layer not in cut.layers),
        influence=tuple(influence),
        inner_size=inner,
        kv_heads=kv_heads,
        num_parameters=(sum(prod(each.shape) for each in plan.matrices), sum(prod(each.shape) for each in kept)),
        num_bytes=(plan.checkpoint.num_bytes, num_bytes),
    )
