"""From a checkpoint to a model that computes: find the architecture, read the weights, bring them into place."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import mlx.core as mx

from engine import architectures
from engine.attention.batch import Batch
from engine.cache.spec import CacheSpec
from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.load import load_tensors
from engine.config import ConfigReader
from engine.consistency import check_counts, check_head, has_own_head
from engine.device import Device, return_freed_memory
from engine.errors import CheckpointCorrupt, CheckpointUnsupported
from engine.layers.encoder import Encoder
from engine.layers.linear import Weight
from engine.layers.module import Architecture, Module
from engine.quantization_rules import QuantizationChoice, allowed, stays_quantized

OnProgress = Callable[[int, int], None]

# Model types that are another's architecture under a name of their own.
_SHARED_ARCHITECTURES = {
    "kimi_k2": "deepseek_v3",
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_text",
    "gemma4_unified_text": "gemma4_text",
    "mt5": "t5",
    "qwen3_5_moe_text": "qwen3_5_moe",
    "qwen3_5_text": "qwen3_5",
    "xlm-roberta": "roberta",
}
# Encoder-decoders whose encoder is also published by itself: their file has an EncoderModel too.
_WITH_LONE_ENCODER = ("t5",)


class CausalModel(Protocol):
    """A model that generates text: the face of an architecture's `Model`.

    windows: per layer the number of tokens it sees, or None for all
    """

    @property
    def windows(self) -> list[int | None]:
        """One entry per layer."""

    @property
    def cache(self) -> CacheSpec:
        """The kinds of state that the layers keep per sequence."""

    def modules(self) -> Iterator[tuple[str, Module]]:
        """The model and all its parts with their dotted names."""

    def parameters(self) -> dict[str, mx.array]:
        """Every array by its dotted name."""

    def rename(self, name: str) -> str | None:
        """Our dotted name of a checkpoint's tensor; None drops it."""

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """The checkpoint's tensors under this model's names and in its layouts."""

    def __call__(self, ids: mx.array, batch: Batch) -> mx.array:
        """(rows, length) integers to (rows, length, hidden_size); stores keys and values in `rows`."""

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., hidden_size) to (..., vocab_size)."""


def architecture_names() -> list[str]:
    """Every model_type that can be served: the files of engine/architectures, and those that share one."""
    files = [module.name for module in pkgutil.iter_modules(architectures.__path__)]
    return sorted([*files, *_SHARED_ARCHITECTURES])


def build_model(
    checkpoint: Checkpoint, device: Device, on_progress: OnProgress | None = None, bits: int | None = None
) -> CausalModel:
    """Build a model that writes text, load its weights and evaluate them.

    on_progress: called with bytes done and bytes in all
    bits: quantise weights as they are loaded, by engine.quantization_rules; None leaves them as they are
    Raises CheckpointUnsupported and CheckpointCorrupt.
    """
    model = _build(checkpoint, device, on_progress, bits)
    if isinstance(model, Encoder):
        raise CheckpointUnsupported("model_type", checkpoint.config["model_type"], "a model that writes text")
    return model


def build_encoder(
    checkpoint: Checkpoint, device: Device, on_progress: OnProgress | None = None, bits: int | None = None
) -> Encoder:
    """Build a model that reads texts for embeddings or scores. Otherwise as build_model."""
    model = _build(checkpoint, device, on_progress, bits)
    if not isinstance(model, Encoder):
        raise CheckpointUnsupported("model_type", checkpoint.config["model_type"], "a model that only reads text")
    return model


def is_encoder(checkpoint: Checkpoint) -> bool:
    """True when the architecture writes no text. Raises CheckpointUnsupported for an unknown one."""
    return issubclass(_architecture(checkpoint), Encoder)


def outline(checkpoint: Checkpoint) -> Architecture:
    """The model's parts without weights: what its modules are called, and which kind each is.

    Raises CheckpointUnsupported.
    """
    check_counts(checkpoint)
    # A head that differs from the embedding is not tied, whatever the configuration says.
    given = checkpoint.config | ({"tie_word_embeddings": False} if has_own_head(checkpoint) else {})
    config = ConfigReader(given, {name: entry.shape for name, entry in checkpoint.tensors.items()})
    model: Architecture = _architecture(checkpoint)(config)
    config.finish()
    return model


def _build(
    checkpoint: Checkpoint, device: Device, on_progress: OnProgress | None, bits: int | None
) -> CausalModel | Encoder:
    model: Any = outline(checkpoint)
    _expect_quantized(model, checkpoint)
    _load(model, checkpoint, device, on_progress, bits)
    _prepare(model, device)
    mx.eval(list(model.parameters().values()))
    return_freed_memory()  # what weights were before they were prepared is never needed again
    prepared: CausalModel | Encoder = model
    return prepared


def _architecture(checkpoint: Checkpoint) -> type[Any]:
    name = checkpoint.config.get("model_type")
    if name not in architecture_names():
        raise CheckpointUnsupported("model_type", name, ", ".join(architecture_names()))
    check_head(checkpoint)
    file = _SHARED_ARCHITECTURES.get(name, name)
    alone = file in _WITH_LONE_ENCODER and not any(name.startswith("decoder.") for name in checkpoint.tensors)
    module = importlib.import_module(f"engine.architectures.{file}")
    architecture: type[Any] = module.EncoderModel if alone else module.Model
    return architecture


def _expect_quantized(model: Architecture | CausalModel, checkpoint: Checkpoint) -> None:
    modules = dict(model.modules())
    for path, quantization in checkpoint.quantization.items():
        own = model.rename(f"{path}.weight")
        module = None if own is None else modules.get(own.removesuffix(".weight"))
        if isinstance(module, Weight):
            module.expect_quantized(quantization)


def _load(
    model: Architecture | CausalModel,
    checkpoint: Checkpoint,
    device: Device,
    on_progress: OnProgress | None,
    bits: int | None,
) -> None:
    modules = dict(model.modules())
    missing = dict(model.parameters())
    for name, array in model.convert(_counted(checkpoint, device, on_progress)):
        if name not in missing and is_derived(name):
            continue
        _check_array(checkpoint, name, array, missing.pop(name, None))
        path, _, attribute = name.rpartition(".")
        setattr(modules[path], attribute, array)
        if bits is not None and attribute == "weight":
            _quantize(modules[path], path, bits, quantized=False)
    if missing:
        raise CheckpointCorrupt(checkpoint.path.name, f"tensor {min(missing)} is missing")
    if bits is not None:
        for path, module in modules.items():
            _quantize(module, path, bits, quantized=True)


def _quantize(module: Module, path: str, bits: int, *, quantized: bool) -> None:
    """Quantise a loaded matrix: a dense one at once, a quantised one when all of its arrays are there."""
    if not isinstance(module, Weight) or (module.quantization is not None) != quantized:
        return
    before = module.quantization
    shape = module.weight.shape if before is None else (*module.weight.shape[:-1], module.columns)
    wanted = allowed(QuantizationChoice(bits).quantization(), path, module, shape)
    if wanted is not None and (before is None or not stays_quantized(before, wanted)):
        module.quantize_anew(wanted)


def _counted(checkpoint: Checkpoint, device: Device, on_progress: OnProgress | None) -> Iterator[tuple[str, mx.array]]:
    done = 0
    # Scales in float32, which some of GGML's types need, would have Metal compute everything in float32.
    for name, array in load_tensors(checkpoint, exact=device.kind == "cpu"):
        done = min(done + array.nbytes, checkpoint.num_bytes)
        if on_progress is not None:
            on_progress(done, checkpoint.num_bytes)
        yield name, array


def _check_array(checkpoint: Checkpoint, name: str, array: mx.array, expected: mx.array | None) -> None:
    if expected is None:
        supported = f"the tensors of model_type {checkpoint.config['model_type']!r}"
        raise CheckpointUnsupported("tensor", name[:128], supported)
    if array.shape != expected.shape:
        raise CheckpointCorrupt(checkpoint.path.name, f"tensor {name} has shape {array.shape}, not {expected.shape}")
    stored_as_integers = name.endswith(".scales")
    if (
        mx.issubdtype(expected.dtype, mx.floating)
        and not stored_as_integers
        and not mx.issubdtype(array.dtype, mx.floating)
    ):
        kind = str(array.dtype).rpartition(".")[2]
        raise CheckpointCorrupt(checkpoint.path.name, f"tensor {name} holds numbers of type {kind}, not weights")


def is_derived(name: str) -> bool:
    """True for tensors that some exporters write and every architecture computes: rotary tables, a tied head."""
    return name.endswith(("rotary_emb.inv_freq", "rope_freqs.weight")) or name.startswith("lm_head.")


def _prepare(model: Architecture | CausalModel, device: Device) -> None:
    for _, module in model.modules():
        module.prepare(device)
