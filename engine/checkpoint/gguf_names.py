"""GGUF's tensor names as a Hugging Face checkpoint has them, one table row per architecture. Knows no configuration.

Source of the names: llama.cpp's gguf-py, tensor_mapping.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.checkpoint.json_object import shown
from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

_LAYER_TENSOR = re.compile(r"blk\.(0|[1-9]\d{0,6})\.((?:shortconv\.)?\w+)(?:\.(weight|bias))?", re.ASCII)
_ANY_LAYER = re.compile(r"blk\.(0|[1-9]\d{0,6})\.", re.ASCII)
_TENSOR = re.compile(r"(\w+)\.(weight|bias)", re.ASCII)
_MODULES = {
    "token_embd": "model.embed_tokens",
    "token_embd_norm": "model.norm",
    "output_norm": "model.norm",
    "output": "lm_head",
    "per_layer_token_embd": "model.embed_tokens_per_layer",
    "per_layer_model_proj": "model.per_layer_model_projection",
    "per_layer_proj_norm": "model.per_layer_projection_norm",
}
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
_WHOLE_NAMES = ("_bias", "layer_scalar", ".A_log", ".D")  # ends of names that are a tensor's, not a module's
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
    partial: the file says how much of each head is rotated
    has_latents: keys and values come from latents, whose sizes the file states
    varied: layers differ in sizes that are one number elsewhere
    """

    model_type: str
    layer_modules: Mapping[str, str]
    interleaved: bool = False
    optional_biases: bool = False
    offset_norms: bool = False
    partial: bool = False
    has_latents: bool = False
    varied: bool = False


def _experts(block: str = "mlp", shared: str = "shared_experts") -> dict[str, str]:
    """Names of a mixture of experts. block, shared: Hugging Face's names of the mixture, and of its shared experts."""
    return {
        "ffn_gate_inp": f"{block}.gate",
        "ffn_gate_exps": f"{block}.switch_mlp.gate_proj",
        "ffn_up_exps": f"{block}.switch_mlp.up_proj",
        "ffn_down_exps": f"{block}.switch_mlp.down_proj",
        "exp_probs_b": f"{block}.gate.e_score_correction_bias",
        "ffn_gate_shexp": f"{block}.{shared}.gate_proj",
        "ffn_up_shexp": f"{block}.{shared}.up_proj",
        "ffn_down_shexp": f"{block}.{shared}.down_proj",
        "ffn_gate_inp_shexp": f"{block}.shared_expert_gate",
    }


_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GEMMA4 = {
    "layer_output_scale": "layer_scalar",
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
}
_POST_NORM = {"post_attention_norm": "post_attention_layernorm"}
_BEHIND = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_LATE_HEAD_NORMS = {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}
_GLM4 = {
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    "ffn_up": "mlp.gate_up_proj",
}
_LATENT = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b": "self_attn.embed_q",
    "attn_v_b": "self_attn.unembed_out",
}
_LFM2 = {
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
}
_LLAMA4 = {
    theirs: ours.replace("switch_mlp", "experts").replace("mlp.", "feed_forward.")
    for theirs, ours in (_LAYER_MODULES | _experts(shared="shared_expert")).items()
} | {"ffn_gate_inp": "feed_forward.router"}
_DELTA = {
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_ba": "linear_attn.in_proj_ba",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_a": "linear_attn.A_log",
    "ssm_dt": "linear_attn.dt_bias",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
_QWEN_EXPERTS = _experts(shared="shared_expert")
ARCHITECTURES = {
    "llama": GGUFArchitecture("llama", _LAYER_MODULES, interleaved=True, optional_biases=True),
    "qwen2": GGUFArchitecture("qwen2", _LAYER_MODULES),
    "qwen3": GGUFArchitecture("qwen3", _LAYER_MODULES | _HEAD_NORMS),
    "llama4": GGUFArchitecture("llama4_text", _LLAMA4),
    "mistral3": GGUFArchitecture("ministral3", _LAYER_MODULES, interleaved=True),
    "seed_oss": GGUFArchitecture("seed_oss", _LAYER_MODULES | _POST_NORM),
    "ernie4_5": GGUFArchitecture("ernie4_5", _LAYER_MODULES),
    "ernie4_5-moe": GGUFArchitecture("ernie4_5_moe", _LAYER_MODULES | _experts()),
    "exaone4": GGUFArchitecture("exaone4", _LAYER_MODULES | _HEAD_NORMS | _BEHIND),
    "olmo": GGUFArchitecture("olmo", _LAYER_MODULES, interleaved=True),
    "olmo2": GGUFArchitecture("olmo2", _LAYER_MODULES | _HEAD_NORMS | _BEHIND),
    "olmoe": GGUFArchitecture("olmoe", _LAYER_MODULES | _HEAD_NORMS | _experts()),
    "hunyuan-dense": GGUFArchitecture("hunyuan_v1_dense", _LAYER_MODULES | _LATE_HEAD_NORMS),
    "glm4": GGUFArchitecture("glm4", _LAYER_MODULES | _GLM4, partial=True),
    "glm4moe": GGUFArchitecture("glm4_moe", _LAYER_MODULES | _HEAD_NORMS | _POST_NORM | _experts(), partial=True),
    "minimax-m2": GGUFArchitecture(
        "minimax_m2", _LAYER_MODULES | _HEAD_NORMS | _experts("block_sparse_moe"), partial=True
    ),
    "deepseek2": GGUFArchitecture("deepseek_v3", _LAYER_MODULES | _LATENT | _experts(), has_latents=True),
    "qwen2moe": GGUFArchitecture("qwen2_moe", _LAYER_MODULES | _experts(shared="shared_expert")),
    "qwen3moe": GGUFArchitecture("qwen3_moe", _LAYER_MODULES | _HEAD_NORMS | _experts()),
    "granite": GGUFArchitecture("granite", _LAYER_MODULES, interleaved=True),
    "granitemoe": GGUFArchitecture("granitemoe", _LAYER_MODULES | _experts("block_sparse_moe"), interleaved=True),
    "command-r": GGUFArchitecture("cohere", _LAYER_MODULES | _HEAD_NORMS),
    "cohere2": GGUFArchitecture("cohere2", _LAYER_MODULES),
    "stablelm": GGUFArchitecture("stablelm", _LAYER_MODULES, partial=True),
    "smollm3": GGUFArchitecture("smollm3", _LAYER_MODULES, interleaved=True),
    "lfm2": GGUFArchitecture("lfm2", _LAYER_MODULES | _LFM2 | _HEAD_NORMS),
    "lfm2moe": GGUFArchitecture("lfm2_moe", _LAYER_MODULES | _LFM2 | _HEAD_NORMS | _experts()),
    "qwen35": GGUFArchitecture("qwen3_5", _LAYER_MODULES | _HEAD_NORMS | _DELTA, partial=True),
    "qwen35moe": GGUFArchitecture("qwen3_5_moe", _LAYER_MODULES | _HEAD_NORMS | _DELTA | _QWEN_EXPERTS, partial=True),
    "qwen3next": GGUFArchitecture("qwen3_next", _LAYER_MODULES | _HEAD_NORMS | _DELTA | _QWEN_EXPERTS, partial=True),
    "gemma": GGUFArchitecture("gemma", _LAYER_MODULES, offset_norms=True),
    "gemma2": GGUFArchitecture("gemma2", _LAYER_MODULES | _FOUR_NORMS, offset_norms=True),
    "gemma3": GGUFArchitecture("gemma3_text", _LAYER_MODULES | _HEAD_NORMS | _FOUR_NORMS, offset_norms=True),
    "gemma4": GGUFArchitecture("gemma4_text", _LAYER_MODULES | _HEAD_NORMS | _FOUR_NORMS | _GEMMA4, varied=True),
}


def translate_tensors(
    tensors: Mapping[str, TensorEntry],
    architecture: GGUFArchitecture,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    num_extra_layers: int = 0,
) -> dict[str, TensorEntry]:
    """The tensors by their Hugging Face names, without rotary tables and layers that predict behind the next token.

    Raises CheckpointUnsupported for a tensor that the architecture has not, CheckpointCorrupt for a misplaced one.
    """
    heads = {"attn_q": num_heads, "attn_k": num_kv_heads} if architecture.interleaved else {}
    translated: dict[str, TensorEntry] = {}
    for entry in tensors.values():
        if _ROPE_TENSORS.fullmatch(entry.name) or _predicts_behind(entry.name, num_layers, num_extra_layers):
            continue
        module = _module(entry.name)
        name = _translated_name(entry, architecture, num_layers)
        translated[name] = replace(
            entry,
            name=name,
            shape=_shape(name, entry.shape),
            interleaved_heads=_checked_heads(entry, heads.get(module, 0)),
            is_negative_exponential=name.endswith(".A_log"),
            addend=-1.0 if architecture.offset_norms and name.endswith("norm.weight") else 0.0,
        )
    return translated


def _predicts_behind(name: str, num_layers: int, num_extra_layers: int) -> bool:
    match = _ANY_LAYER.match(name)
    return match is not None and num_layers <= int(match[1]) < num_layers + num_extra_layers


def _shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Hugging Face's shape, where llama.cpp's converter leaves out an axis of length 1."""
    if name.endswith(".conv.conv.weight") and len(shape) == 2:
        return shape[0], 1, shape[1]
    if name.endswith(".conv1d.weight") and len(shape) == 2:
        return (*shape, 1)  # as MLX's converter leaves kernels, which adds 1 to norms as llama.cpp's does
    return (1, *shape) if name.endswith(".shared_expert_gate.weight") and len(shape) == 1 else shape


def _module(name: str) -> str:
    match = _LAYER_TENSOR.fullmatch(name)
    return match[2] if match else ""


def _translated_name(entry: TensorEntry, architecture: GGUFArchitecture, num_layers: int) -> str:
    if (match := _LAYER_TENSOR.fullmatch(entry.name)) and match[2] in architecture.layer_modules:
        if int(match[1]) >= num_layers:
            raise CheckpointCorrupt(entry.file.name, f"tensor {shown(entry.name)} is beyond its {num_layers} layers")
        module = architecture.layer_modules[match[2]]
        return f"model.layers.{match[1]}.{module}" + ("" if module.endswith(_WHOLE_NAMES) else f".{match[3]}")
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
