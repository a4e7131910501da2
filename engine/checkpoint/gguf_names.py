"""GGUF's tensor names as a Hugging Face checkpoint has them, one table row per architecture. Knows no configuration.

Source of the names: llama.cpp's gguf-py, tensor_mapping.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.checkpoint.json_object import shown
from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

_LAYER_TENSOR = re.compile(r"blk\.(0|[1-9]\d{0,6})\.(\w+)\.(weight|bias)", re.ASCII)
_TENSOR = re.compile(r"(\w+)\.(weight|bias)", re.ASCII)
_MODULES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"
# Rotary tables: the configuration carries what they say.
_ROPE_TENSORS = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd\.weight|blk\.\d+\.rope_freqs\.weight", re.ASCII)


@dataclass(frozen=True, slots=True)
class GGUFArchitecture:
    """One family of models in GGUF: its names of tensors and keys.

    model_type: as in Hugging Face's config.json
    layer_modules: GGUF's module names inside a block to Hugging Face's
    interleaved: llama.cpp's converter has reordered the rows of queries and keys for its interleaved rotation
    optional_biases: config.json says whether the projections have biases
    offset_norms: llama.cpp's converter has added 1 to the weights of norms
    """

    model_type: str
    layer_modules: Mapping[str, str]
    interleaved: bool = False
    optional_biases: bool = False
    offset_norms: bool = False


_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
ARCHITECTURES = {
    "llama": GGUFArchitecture("llama", _LAYER_MODULES, interleaved=True, optional_biases=True),
    "qwen2": GGUFArchitecture("qwen2", _LAYER_MODULES),
    "qwen3": GGUFArchitecture("qwen3", _LAYER_MODULES | _HEAD_NORMS),
    "gemma2": GGUFArchitecture("gemma2", _LAYER_MODULES | _FOUR_NORMS, offset_norms=True),
    "gemma3": GGUFArchitecture("gemma3_text", _LAYER_MODULES | _HEAD_NORMS | _FOUR_NORMS, offset_norms=True),
}


def translate_tensors(
    tensors: Mapping[str, TensorEntry],
    architecture: GGUFArchitecture,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
) -> dict[str, TensorEntry]:
    """The tensors by their Hugging Face names; rotary tables are left out.

    Raises CheckpointUnsupported for a tensor that the architecture has not, CheckpointCorrupt for a misplaced one.
    """
    heads = {"attn_q": num_heads, "attn_k": num_kv_heads} if architecture.interleaved else {}
    translated: dict[str, TensorEntry] = {}
    for entry in tensors.values():
        if _ROPE_TENSORS.fullmatch(entry.name):
            continue
        module = _module(entry.name)
        name = _translated_name(entry, architecture, num_layers)
        translated[name] = replace(
            entry,
            name=name,
            interleaved_heads=_checked_heads(entry, heads.get(module, 0)),
            addend=-1.0 if architecture.offset_norms and name.endswith("norm.weight") else 0.0,
        )
    return translated


def _module(name: str) -> str:
    match = _LAYER_TENSOR.fullmatch(name)
    return match[2] if match else ""


def _translated_name(entry: TensorEntry, architecture: GGUFArchitecture, num_layers: int) -> str:
    if (match := _LAYER_TENSOR.fullmatch(entry.name)) and match[2] in architecture.layer_modules:
        if int(match[1]) >= num_layers:
            raise CheckpointCorrupt(entry.file.name, f"tensor {shown(entry.name)} is beyond its {num_layers} layers")
        return f"model.layers.{match[1]}.{architecture.layer_modules[match[2]]}.{match[3]}"
    if (match := _TENSOR.fullmatch(entry.name)) and match[1] in _MODULES:
        return f"{_MODULES[match[1]]}.{match[2]}"
    raise CheckpointUnsupported("GGUF tensor", entry.name[:80], f"the tensors of {architecture.model_type}")


def _checked_heads(entry: TensorEntry, num_heads: int) -> int:
    if num_heads and entry.shape[0] % (2 * num_heads):
        raise CheckpointCorrupt(
            entry.file.name,
            f"tensor {shown(entry.name)} has {entry.shape[0]} rows, which {num_heads} heads cannot share",
        )
    return num_heads
