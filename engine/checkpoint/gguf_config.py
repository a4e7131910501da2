"""A GGUF's metadata as Hugging Face's config.json and generation_config.json say the same. Imports no array library."""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from engine.checkpoint.folder import open_file
from engine.checkpoint.gguf import GGUFHeader
from engine.checkpoint.gguf_families import family_settings, latent_settings
from engine.checkpoint.gguf_names import ARCHITECTURES, ROPE_FACTORS, GGUFArchitecture
from engine.checkpoint.gguf_rope import read_rope_scaling
from engine.checkpoint.gguf_settings import GGUFSettings
from engine.checkpoint.json_object import shown
from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

_EMBEDDING = "token_embd.weight"
_EPS_KEYS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps", "attention.layer_norm_epsilon": "layer_norm_eps"}
_LENGTHS = ("attention.value_length", "rope.dimension_count")
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Keys nobody reads, with the values that leave the result as it is; an empty tuple means every value.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "vocab_size": (),
    "tensor_data_layout": (),
    "rope.scaling.finetuned": (),
    "rope.scaling.original_context_length": (),
    "rope.scaling.factor": (),
    "rope.scale_linear": (),
    "rope.scaling.attn_factor": (1.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
    "logit_scale": (0.0, 1.0),
}


def find_architecture(metadata: Mapping[str, Any]) -> tuple[str, GGUFArchitecture]:
    """The file's own name for its architecture, and the table row for it. Raises CheckpointUnsupported."""
    _expect(metadata, "general.type", "model")
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        value = name[:64] if isinstance(name, str) else None
        raise CheckpointUnsupported("general.architecture", value, ", ".join(ARCHITECTURES))
    return name, ARCHITECTURES[name]


def read_config(header: GGUFHeader, file: str) -> dict[str, Any]:
    """config.json's keys, as far as the GGUF says them. Raises CheckpointUnsupported and CheckpointCorrupt."""
    name, architecture = find_architecture(header.metadata)
    settings = GGUFSettings(header.metadata, name, file)
    config = _sizes(settings, varied=architecture.varied) | {
        "model_type": architecture.model_type,
        "hidden_act": "silu",
        "vocab_size": _embedding(header, file).shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    if architecture.has_latents:
        config |= latent_settings(settings, config, header.tensors)
    else:
        config |= _heads(settings, config, file, partial=architecture.partial)
    if architecture.optional_biases:
        config |= _biases(header)
    factors = _rope_factors(header, config["head_dim"] // 2)
    config["rope_scaling"] = read_rope_scaling(settings, factors, config["rope_theta"])
    config |= family_settings(settings, architecture.model_type, config, header.tensors)
    settings.finish(_NEUTRAL)
    return config


def read_generation_config(metadata: Mapping[str, Any], vocab_size: int, file: str) -> dict[str, Any]:
    """The beginning and end tokens; a list where the file names several ends. Raises CheckpointCorrupt."""
    config: dict[str, Any] = {}
    ends = [_token_id(metadata, key, vocab_size, file) for key in _END_KEYS]
    end_ids = list(dict.fromkeys(token_id for token_id in ends if token_id is not None))
    if end_ids:
        config["eos_token_id"] = end_ids if len(end_ids) > 1 else end_ids[0]
    begin = _token_id(metadata, "bos_token_id", vocab_size, file)
    return config if begin is None else config | {"bos_token_id": begin}


def _expect(metadata: Mapping[str, Any], key: str, supported: str | int) -> None:
    value = metadata.get(key, supported)
    if value != supported and (key, value) != ("split.count", 0):
        raise CheckpointUnsupported(key, value if isinstance(value, int) else str(value)[:64], str(supported))


def _sizes(settings: GGUFSettings, *, varied: bool) -> dict[str, Any]:
    num_heads = settings.count("attention.head_count")
    num_extra = settings.layer_counts("nextn_predict_layers", 1)[0] if settings.has("nextn_predict_layers") else 0
    eps = next((key for key in _EPS_KEYS if settings.has(key)), "attention.layer_norm_rms_epsilon")
    return {
        "max_position_embeddings": settings.count("context_length"),
        "hidden_size": settings.count("embedding_length"),
        "num_hidden_layers": settings.count("block_count") - num_extra,
        "intermediate_size": _feed_forward_length(settings, varied=varied),
        "num_attention_heads": num_heads,
        "num_key_value_heads": _num_kv_heads(settings, num_heads, varied=varied),
        _EPS_KEYS[eps]: settings.number(eps),
        "rope_theta": settings.number("rope.freq_base", 10_000.0),
    } | ({"num_nextn_predict_layers": num_extra} if num_extra else {})


def _feed_forward_length(settings: GGUFSettings, *, varied: bool) -> int:
    """One number for all layers, or that of the first."""
    if varied and settings.is_list("feed_forward_length"):
        return settings.layer_counts("feed_forward_length", settings.count("block_count"))[0]
    return settings.count("feed_forward_length")


def _num_kv_heads(settings: GGUFSettings, num_heads: int, *, varied: bool) -> int:
    """One number for all layers that attend, or that of the first; the others have 0 where there is one per layer."""
    if not settings.is_list("attention.head_count_kv"):
        return settings.count("attention.head_count_kv", num_heads)
    per_layer = settings.layer_counts("attention.head_count_kv", settings.count("block_count"))
    counts = {per_layer[0]} if varied else set(per_layer) - {0}
    if len(counts) != 1:
        raise CheckpointUnsupported("attention.head_count_kv", "a list", "one value for all layers that attend")
    return counts.pop()


def _heads(settings: GGUFSettings, config: Mapping[str, Any], file: str, *, partial: bool) -> dict[str, Any]:
    """The length of queries, keys and values, and how much of it is rotated; even ones, as rotation needs pairs."""
    rotated = settings.count("rope.dimension_count") if partial and settings.has("rope.dimension_count") else None
    head_dim = _head_dim(settings, config, file, ("attention.value_length",) if rotated else _LENGTHS)
    if rotated is None:
        return {"head_dim": head_dim}
    if rotated > head_dim or rotated % 2:
        raise CheckpointCorrupt(file, f"it rotates {rotated} of {head_dim} dimensions")
    return {"head_dim": head_dim, "partial_rotary_factor": rotated / head_dim}


def _head_dim(settings: GGUFSettings, config: Mapping[str, Any], file: str, keys: Sequence[str]) -> int:
    """One length for queries and keys, and for what the keys name."""
    head_dim = settings.count("attention.key_length", config["hidden_size"] // config["num_attention_heads"] or 1)
    for key in keys:
        if settings.count(key, head_dim) != head_dim:
            raise CheckpointUnsupported(key, settings.count(key), f"{head_dim}, the length of its keys")
    if head_dim % 2:
        raise CheckpointCorrupt(file, f"its heads have the odd length {head_dim}")
    return head_dim


def _embedding(header: GGUFHeader, file: str) -> TensorEntry:
    entry = header.tensors.get(_EMBEDDING)
    if entry is None or len(entry.shape) != 2:
        raise CheckpointCorrupt(file, f"it has no matrix {_EMBEDDING}")
    return entry


def _biases(header: GGUFHeader) -> dict[str, bool]:
    return {
        "attention_bias": _biased(header, ("attn_q", "attn_k", "attn_v", "attn_output")),
        "mlp_bias": _biased(header, ("ffn_gate", "ffn_up", "ffn_down")),
    }


def _biased(header: GGUFHeader, modules: tuple[str, ...]) -> bool:
    """True when all of the first block's modules have biases, False when none has."""
    present = [module for module in modules if f"blk.0.{module}.bias" in header.tensors]
    if present and len(present) < len(modules):
        raise CheckpointUnsupported("biases", ", ".join(present), f"biases of all or none of {', '.join(modules)}")
    return bool(present)


def _rope_factors(header: GGUFHeader, length: int) -> tuple[float, ...]:
    entry = header.tensors.get(ROPE_FACTORS)
    if entry is None:
        return ()
    if entry.dtype != "F32" or entry.shape != (length,):
        raise CheckpointCorrupt(entry.file.name, f"{ROPE_FACTORS} is not a list of {length} F32 numbers")
    with open_file(entry.file) as file:
        file.seek(entry.offset)
        data = file.read(entry.num_bytes)
    if len(data) < entry.num_bytes:
        raise CheckpointCorrupt(entry.file.name, f"it ends inside {ROPE_FACTORS}")
    factors = struct.unpack(f"<{length}f", data)
    if not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise CheckpointCorrupt(entry.file.name, f"{ROPE_FACTORS} has a factor that is not above 0")
    return factors


def _token_id(metadata: Mapping[str, Any], key: str, vocab_size: int, file: str) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is not None and (type(value) is not int or not 0 <= value < vocab_size):
        raise CheckpointCorrupt(file, f"{key} is {shown(value)}, which is outside its vocabulary of {vocab_size}")
    return value
