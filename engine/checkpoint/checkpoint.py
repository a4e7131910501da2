"""A model on disk as one value: configuration, tensors and their quantisation, from headers alone. No mlx."""

import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.ggml_types import BY_NAME
from engine.checkpoint.gguf_config import find_architecture, read_config, read_generation_config
from engine.checkpoint.gguf_names import translate_tensors
from engine.checkpoint.gguf_parts import model_ggufs, read_parts
from engine.checkpoint.json_object import shown
from engine.checkpoint.mlx_quantization import read_quantization
from engine.checkpoint.shards import INDEX_FILE, SINGLE_FILE, check_parts, has_weights, read_shards
from engine.checkpoint.tensors import Quantization, TensorEntry
from engine.checkpoint.wrapper import text_model
from engine.errors import CheckpointCorrupt, CheckpointNotFound, CheckpointUnsupported

__all__ = ["Checkpoint", "Quantization", "TensorEntry", "open_checkpoint"]

_CONFIG_FILE = "config.json"
_GENERATION_FILE = "generation_config.json"
_MAX_CONFIG_BYTES = 8 << 20
_MAX_MODEL_TYPE_LENGTH = 128
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length")
_OLLAMA_BLOB = re.compile(r"sha256-[0-9a-f]{64}", re.ASCII)
_PICKLE_SUFFIXES = (".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk. Every offset, size and name in it has been checked.

    config: keys of Hugging Face's config.json, translated for a GGUF; model_type is a string
    generation_config: of generation_config.json, or the GGUF's end and beginning tokens; {} when there is none
    tensors: by Hugging Face's names
    quantization: by module path ("model.layers.0.self_attn.q_proj"); a module that is not in it is dense
    gguf_metadata: the GGUF's own keys; None for safetensors
    left_out: parts of the files that are no part of the text model ("vision"), and how many tensors each has
    """

    path: Path
    format: Literal["safetensors", "gguf"]
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tensors: dict[str, TensorEntry]
    quantization: dict[str, Quantization]
    gguf_metadata: dict[str, Any] | None
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors on disk."""
        return sum(entry.num_bytes for entry in self.tensors.values())

    @property
    def num_parameters(self) -> int:
        """Numbers in the weights as they were before quantisation: scales and biases of quantised matrices are none."""
        quantized = self.quantization if self.format == "safetensors" else {}
        total = 0
        for name, entry in self.tensors.items():
            module, _, part = name.rpartition(".")
            if module in quantized and part in {"scales", "biases"}:
                continue
            values = prod(entry.shape)
            total += values * 32 // quantized[module].bits if module in quantized and part == "weight" else values
        return total

    @property
    def context_length(self) -> int | None:
        """Tokens that the model was made for; None where its configuration does not say."""
        text = self.config.get("text_config")
        config = text if isinstance(text, dict) else self.config
        trained = next((config[key] for key in _CONTEXT_KEYS if isinstance(config.get(key), int)), None)
        return None if trained is None else int(trained * _stretch(config))


def _stretch(config: Mapping[str, Any]) -> float:
    """Times the trained length that dynamic scaling reaches; the other scalings state the length that they reach."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(scaling, dict) or scaling.get("rope_type", scaling.get("type")) != "dynamic":
        return 1.0
    factor = scaling.get("factor")
    return float(factor) if isinstance(factor, int | float) and 1 <= factor <= 1000 and "alpha" not in scaling else 1.0


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a model: a folder with config.json and safetensors, a folder with one GGUF, or a .gguf file.

    Reads headers and small JSON files only.
    Raises CheckpointNotFound, CheckpointCorrupt and CheckpointUnsupported.
    """
    if _is_folder(path):
        return _open_folder(path, ModelFolder(path))
    if path.name.lower().endswith(_PICKLE_SUFFIXES):
        raise _pickle(path.name)
    if path.suffix.lower() != ".gguf" and not _OLLAMA_BLOB.fullmatch(path.name):
        raise CheckpointUnsupported("file", path.name, "a model folder, or a .gguf file")
    return _open_gguf(path, path, None)


def open_foreign(path: Path, methods: Collection[str]) -> Checkpoint | None:
    """A safetensors folder that another library has quantised by one of these methods, its tensors as they lie there.

    None for anything else. config has the method's settings under "quantization_config". Raises CheckpointError.
    """
    if not _is_folder(path):
        return None
    folder = ModelFolder(path)
    if not folder.has(_CONFIG_FILE) or not has_weights(folder.names()):
        return None
    config = folder.json(_CONFIG_FILE, _MAX_CONFIG_BYTES)
    settings = config.get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") not in methods:
        return None
    return Checkpoint(path, "safetensors", config, {}, read_shards(folder), {}, gguf_metadata=None)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        raise CheckpointNotFound(shown(path.name), "there is no such model, or it cannot be reached") from None


def _open_folder(path: Path, folder: ModelFolder) -> Checkpoint:
    names = folder.names()
    if has_weights(names):
        return _open_safetensors(path, folder)
    ggufs = model_ggufs(names)
    if len(ggufs) == 1:
        return _open_gguf(path, folder.file(ggufs[0]), folder)
    if ggufs:
        raise CheckpointUnsupported("folder", f"{len(ggufs)} GGUF files", "one GGUF file, or the path of one of them")
    pickles = [name for name in names if name.lower().endswith(_PICKLE_SUFFIXES)]
    if pickles:
        raise _pickle(pickles[0])
    check_parts(names)
    raise CheckpointNotFound(folder.name, f"the folder has neither {SINGLE_FILE} nor {INDEX_FILE} nor a GGUF file")


def _pickle(name: str) -> CheckpointUnsupported:
    return CheckpointUnsupported(
        "weights",
        name[:128],
        "safetensors and GGUF; this file is a Python pickle, which may run code when it is read: use a copy of the "
        "model in safetensors, or convert it with save_pretrained(..., safe_serialization=True)",
    )


def _open_safetensors(path: Path, folder: ModelFolder) -> Checkpoint:
    config = folder.json(_CONFIG_FILE, _MAX_CONFIG_BYTES)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not 0 < len(model_type) <= _MAX_MODEL_TYPE_LENGTH:
        raise CheckpointCorrupt(_CONFIG_FILE, f"model_type is {shown(model_type)}, not a name")
    generation = folder.json(_GENERATION_FILE, _MAX_CONFIG_BYTES) if folder.has(_GENERATION_FILE) else {}
    text = text_model(config, read_shards(folder))
    quantization = read_quantization(text.config, text.tensors)
    return Checkpoint(path, "safetensors", text.config, generation, text.tensors, quantization, None, text.left_out)


def _open_gguf(path: Path, file: Path, folder: ModelFolder | None) -> Checkpoint:
    """folder: where the other parts of a model in several files are looked for; None looks beside the file."""
    header = read_parts(file, folder)
    _, architecture = find_architecture(header.metadata)
    config = read_config(header, file.name)
    tensors = translate_tensors(
        header.tensors,
        architecture,
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config.get("num_nextn_predict_layers", 0),
    )
    generation = read_generation_config(header.metadata, config["vocab_size"], file.name)
    return Checkpoint(path, "gguf", config, generation, tensors, _quantized_modules(tensors), header.metadata)


def _quantized_modules(tensors: dict[str, TensorEntry]) -> dict[str, Quantization]:
    quantization: dict[str, Quantization] = {}
    for entry in tensors.values():
        kind = BY_NAME[entry.dtype]
        if kind.block_values == 1:
            continue
        if len(entry.shape) not in (2, 3) or not entry.name.endswith(".weight"):
            raise CheckpointUnsupported(
                f"GGML type of tensor {shown(entry.name)}", kind.name, "F32 for what is no matrix"
            )
        if kind.quantization is not None:
            quantization[entry.name.removesuffix(".weight")] = kind.quantization
    return quantization
