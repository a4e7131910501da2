"""Settings in a GGUF that single families have, as their config.json says the same. Knows keys; knows no tensors.

Where a file leaves a setting out, llama.cpp's own value holds (src/models of its sources).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from engine.checkpoint.gguf_rope import proportional, yarn_magnitude
from engine.checkpoint.gguf_settings import GGUFSettings
from engine.errors import CheckpointUnsupported

Config = Mapping[str, Any]
_SIGMOID = 2  # llama.cpp's number of the function that scores experts


def family_settings(
    settings: GGUFSettings, model_type: str, config: Config, tensors: Collection[str]
) -> dict[str, Any]:
    """Keys of config.json beyond those of all families. Raises CheckpointUnsupported and CheckpointCorrupt.

    config: the keys of all families
    tensors: names in the file, for what no key states
    """
    read = _READERS.get(model_type)
    return {} if read is None else read(settings, config, tensors)


def latent_settings(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """The sizes of attention over latent keys. Older files state the lengths of expanded heads under other keys."""
    rank, rope_dim = settings.count("attention.kv_lora_rank"), settings.count("rope.dimension_count")
    of_latents = settings.count("attention.key_length"), settings.count("attention.value_length")
    key_length = settings.count("attention.key_length_mla", of_latents[0])
    sizes = {
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": rope_dim,
        "kv_lora_rank": rank,
        "qk_rope_head_dim": rope_dim,
        "qk_nope_head_dim": key_length - rope_dim,
        "v_head_dim": settings.count("attention.value_length_mla", of_latents[1]),
    }
    has_query_latent = settings.has("attention.q_lora_rank") and "blk.0.attn_q_a.weight" in tensors
    if settings.has("attention.q_lora_rank"):
        sizes["q_lora_rank"] = settings.count("attention.q_lora_rank")
    return sizes if has_query_latent else sizes | {"q_lora_rank": None}


def _deepseek(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """V2 has no key for the function that scores experts; the first files of GLM have none either."""
    corrected = any(name.endswith(".exp_probs_b.bias") for name in tensors)
    softmax = not corrected and settings.count("expert_gating_func", 1) != _SIGMOID
    num_groups, num_chosen_groups = (
        settings.count("expert_group_count", 1),
        settings.count("expert_group_used_count", 1),
    )
    grouped = "group_limited_greedy" if num_groups > 1 else "greedy"
    return _routed(settings, "n_routed_experts", with_function=not softmax) | {
        "model_type": "deepseek_v2" if softmax else "deepseek_v3",
        "topk_method": grouped if softmax else "noaux_tc",
        "n_group": num_groups,
        "topk_group": num_chosen_groups,
        "n_shared_experts": settings.count("expert_shared_count", 1),
        "first_k_dense_replace": settings.layer_counts("leading_dense_block_count", 1)[0],
        "rope_scaling": yarn_magnitude(settings, config["rope_scaling"], 10.0),
    }


def _llama4(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """What the files leave out is the same in all published models, but for the norms of the one with 128 experts."""
    num_experts = settings.count("expert_count")
    return {
        "num_local_experts": num_experts,
        "num_experts_per_tok": settings.count("expert_used_count"),
        "intermediate_size": settings.count("expert_feed_forward_length"),
        "intermediate_size_mlp": config["intermediate_size"],
        "interleave_moe_layer_step": settings.count("interleave_moe_layer_step", 1),
        "use_qk_norm": num_experts != 128,
    }


def _ministral3(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    scaling = yarn_magnitude(settings, config["rope_scaling"], 1.0)
    if settings.has("attention.temperature_scale") and scaling is not None:
        scaling["llama_4_scaling_beta"] = settings.number("attention.temperature_scale")
    return {"rope_scaling": scaling}


def _routed(settings: GGUFSettings, num_experts: str, *, with_function: bool = False) -> dict[str, Any]:
    """Numbers of a mixture of experts.

    num_experts: what the family calls their number
    with_function: the function that scores them is a sigmoid, and the file says so
    """
    found: dict[str, Any] = {
        num_experts: settings.count("expert_count"),
        "num_experts_per_tok": settings.count("expert_used_count"),
        "norm_topk_prob": settings.flag("expert_weights_norm", default=False),
        "routed_scaling_factor": settings.number("expert_weights_scale", 1.0),
    }
    if settings.has("expert_feed_forward_length"):
        found["moe_intermediate_size"] = settings.count("expert_feed_forward_length")
    if with_function and settings.count("expert_gating_func", _SIGMOID) != _SIGMOID:
        raise CheckpointUnsupported("expert_gating_func", settings.count("expert_gating_func"), "2, a sigmoid")
    return found


def _glm4_moe(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return _routed(settings, "n_routed_experts", with_function=True) | {
        "n_group": settings.count("expert_group_count", 1),
        "topk_group": settings.count("expert_group_used_count", 1),
        "n_shared_experts": settings.count("expert_shared_count", 1),
        "first_k_dense_replace": settings.layer_counts("leading_dense_block_count", 1)[0],
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "use_qk_norm": "blk.0.attn_q_norm.weight" in tensors,
    }


def _minimax_m2(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    found = _routed(settings, "num_local_experts", with_function=True)
    return found | {"intermediate_size": found.pop("moe_intermediate_size", config["intermediate_size"])}


def _qwen_moe(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    found = _routed(settings, "num_experts")
    del found["routed_scaling_factor"]
    if settings.has("expert_shared_feed_forward_length"):
        found["shared_expert_intermediate_size"] = settings.count("expert_shared_feed_forward_length")
        return found
    return found | {"norm_topk_prob": settings.flag("expert_weights_norm", default=True)}


def _olmoe(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return _routed(settings, "num_experts")


def _ernie_moe(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    if settings.has("expert_shared_feed_forward_length"):
        settings.count("expert_shared_feed_forward_length")  # the converter states it per expert, or for all of them
    return {
        "moe_num_experts": settings.count("expert_count"),
        "moe_k": settings.count("expert_used_count"),
        "moe_intermediate_size": settings.count("expert_feed_forward_length"),
        "moe_num_shared_experts": settings.count("expert_shared_count", 1),
        "moe_layer_start_index": settings.layer_counts("leading_dense_block_count", 1)[0],
        "moe_layer_interval": settings.count("interleave_moe_layer_step", 1),
        "use_bias": "blk.0.attn_q.bias" in tensors,
    }


def _ernie(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return {"use_bias": "blk.0.attn_q.bias" in tensors}


def _seed_oss(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return {
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "attention_out_bias": "blk.0.attn_output.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }


def _glm4(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return {"attention_bias": "blk.0.attn_q.bias" in tensors}


def _hunyuan(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return {"attention_bias": "blk.0.attn_q.bias" in tensors}


def _exaone4(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return _listed_windows(settings, config)


def _olmo(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    has_limit = settings.has("attention.clamp_kqv")
    return {"clip_qkv": settings.number("attention.clamp_kqv")} if has_limit else {}


def _olmo2(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """OLMo 3 is OLMo 2 with windows, whose layers have a base of their own."""
    windows = _listed_windows(settings, config)
    if not windows:
        return {}
    if settings.number("rope.freq_base_swa", config["rope_theta"]) != config["rope_theta"]:
        raise CheckpointUnsupported("rope.freq_base_swa", settings.number("rope.freq_base_swa"), "rope.freq_base")
    return windows | {"model_type": "olmo3"}


def _listed_windows(settings: GGUFSettings, config: Config) -> dict[str, Any]:
    """The window, and the layers that have it; nothing where no layer has one."""
    if not settings.has("attention.sliding_window"):
        return {}
    found: dict[str, Any] = {"sliding_window": settings.count("attention.sliding_window")}
    if settings.is_list("attention.sliding_window_pattern"):
        flags = settings.layer_flags("attention.sliding_window_pattern", config["num_hidden_layers"])
        found["layer_types"] = ["sliding_attention" if each else "full_attention" for each in flags]
    return found


def _granite(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return {
        "attention_multiplier": settings.number("attention.scale", config["head_dim"] ** -0.5),
        "embedding_multiplier": settings.number("embedding_scale", 1.0),
        "residual_multiplier": settings.number("residual_scale", 1.0),
        "logits_scaling": settings.number("logit_scale", 1.0),
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }


def _granite_moe(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    experts = {
        "num_local_experts": settings.count("expert_count"),
        "num_experts_per_tok": settings.count("expert_used_count"),
    }
    return _granite(settings, config, tensors) | experts


def _cohere(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return {
        "logit_scale": settings.number("logit_scale", 1.0),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
    }


def _cohere2(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    found = _cohere(settings, config, tensors)
    return found | {"sliding_window": settings.count("attention.sliding_window")}


def _stablelm(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return {
        "use_parallel_residual": settings.flag("use_parallel_residual", default=False),
        "use_qkv_bias": "blk.0.attn_q.bias" in tensors,
    }


def _lfm2(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    counts = settings.layer_counts("attention.head_count_kv", config["num_hidden_layers"])
    return {
        "layer_types": ["full_attention" if count else "conv" for count in counts],
        "conv_L_cache": settings.count("shortconv.l_cache", 3),
        "norm_eps": config["rms_norm_eps"],
        "block_auto_adjust_ff_dim": False,  # the file states the width as it is
    }


def _lfm2_moe(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    experts = _routed(settings, "num_experts", with_function=True) | {"norm_topk_prob": True}
    corrected = any(name.endswith(".exp_probs_b.bias") for name in tensors)
    num_dense = settings.layer_counts("leading_dense_block_count", 1)[0]
    return _lfm2(settings, config, tensors) | experts | {"num_dense_layers": num_dense, "use_expert_bias": corrected}


def _qwen35(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """Sizes of gated DeltaNet; llama.cpp's converter orders value heads otherwise than Hugging Face."""
    if settings.has("rope.dimension_sections"):
        settings.layer_counts("rope.dimension_sections", 4)  # of positions in pictures, which text does not have
    num_layers, num_value_heads = config["num_hidden_layers"], settings.count("ssm.time_step_rank")
    found: dict[str, Any] = {
        "linear_num_key_heads": settings.count("ssm.group_count"),
        "linear_num_value_heads": num_value_heads,
        "linear_key_head_dim": settings.count("ssm.state_size"),
        "linear_value_head_dim": settings.count("ssm.inner_size") // num_value_heads,
        "linear_conv_kernel_dim": settings.count("ssm.conv_kernel"),
        "linear_value_heads_tiled": True,
        "full_attention_interval": settings.count("full_attention_interval", 4),
    }
    if settings.has("attention.recurrent_layers"):
        num_stored = num_layers + config.get("num_nextn_predict_layers", 0)
        flags = settings.layer_flags("attention.recurrent_layers", num_stored)[:num_layers]
        found["layer_types"] = ["linear_attention" if each else "full_attention" for each in flags]
    return found


def _qwen35_moe(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    experts = _qwen_moe(settings, config, tensors) | {"norm_topk_prob": True}
    return _qwen35(settings, config, tensors) | experts


def _qwen3_next(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return _qwen35_moe(settings, config, tensors) | {"linear_value_heads_tiled": False}


def _gemma1(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    return {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}


def _gemma2(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    is_27b = config["num_hidden_layers"] == 46
    return _gemma(settings, config, is_27b=is_27b) | {
        "sliding_window": settings.count("attention.sliding_window", 4096),
        "attn_logit_softcapping": settings.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": settings.number("final_logit_softcapping", 30.0),
    }


def _gemma3(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    is_27b = config["num_hidden_layers"] == 62
    found = _gemma(settings, config, is_27b=is_27b) | _optional(settings, "final_logit_softcapping")
    found["rope_local_base_freq"] = settings.number("rope.freq_base_swa", 10_000.0)
    if not settings.has("attention.sliding_window"):
        return found | {"sliding_window_pattern": 1}
    return found | {
        "sliding_window": settings.count("attention.sliding_window"),
        "sliding_window_pattern": settings.count("attention.sliding_window_pattern", 6),
    }


def _gemma4(settings: GGUFSettings, config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """Keys without an ending are those of the full layers."""
    num_layers = config["num_hidden_layers"]
    windowed = settings.layer_flags("attention.sliding_window_pattern", num_layers)
    head_dim = settings.count("attention.key_length_swa")
    for key in ("attention.value_length_swa", "rope.dimension_count_swa"):
        if settings.count(key, head_dim) != head_dim:
            raise CheckpointUnsupported(key, settings.count(key), f"{head_dim}, the length of its keys")
    (num_shared,) = settings.layer_counts("attention.shared_kv_layers", 1)
    (width,) = settings.layer_counts("embedding_length_per_layer_input", 1)
    full = windowed.index(False) if False in windowed else 0
    sliding = {"rope_type": "default", "rope_theta": settings.number("rope.freq_base_swa", 10_000.0)}
    return _optional(settings, "final_logit_softcapping") | {
        **_gemma4_widths(settings, config, windowed),
        "hidden_act": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": ["sliding_attention" if each else "full_attention" for each in windowed],
        "sliding_window": settings.count("attention.sliding_window"),
        "head_dim": head_dim,
        "global_head_dim": config["head_dim"],
        "attention_k_eq_v": f"blk.{full}.attn_v.weight" not in tensors,
        "num_kv_shared_layers": num_shared,
        "hidden_size_per_layer_input": width,
        "vocab_size_per_layer_input": config["vocab_size"],
        "rope_scaling": None,
        "rope_parameters": {"full_attention": proportional(config), "sliding_attention": sliding},
    }


def _gemma4_widths(settings: GGUFSettings, config: Config, windowed: list[bool]) -> dict[str, Any]:
    """Key heads of both kinds of layers, and whether the last MLPs have twice the width."""
    found: dict[str, Any] = {}
    if settings.is_list("attention.head_count_kv"):
        counts = settings.layer_counts("attention.head_count_kv", len(windowed))
        pairs = list(zip(counts, windowed, strict=True))
        by_kind = [{count for count, each in pairs if each is kind} for kind in (True, False)]
        if any(len(each) > 1 for each in by_kind):
            raise CheckpointUnsupported("attention.head_count_kv", "a list", "one value for all layers of a kind")
        found["num_key_value_heads"] = max(by_kind[0], default=config["num_key_value_heads"])
        found["num_global_key_value_heads"] = max(by_kind[1], default=None)
    if settings.is_list("feed_forward_length"):
        widths = settings.layer_counts("feed_forward_length", len(windowed))
        found["use_double_wide_mlp"] = widths[-1] == 2 * widths[0]
    return found


def _gemma(settings: GGUFSettings, config: Config, *, is_27b: bool) -> dict[str, Any]:
    """The largest models alone have a scale of their own, which their files do not state."""
    activation = "gelu_pytorch_tanh"
    scalar = config["hidden_size"] // config["num_attention_heads"] if is_27b else config["head_dim"]
    return {"hidden_act": activation, "hidden_activation": activation, "query_pre_attn_scalar": scalar}


def _optional(settings: GGUFSettings, key: str) -> dict[str, float]:
    return {key: settings.number(key)} if settings.has(key) else {}


_READERS: dict[str, Callable[[GGUFSettings, Config, Collection[str]], dict[str, Any]]] = {
    "cohere": _cohere,
    "cohere2": _cohere2,
    "deepseek_v3": _deepseek,
    "ernie4_5": _ernie,
    "ernie4_5_moe": _ernie_moe,
    "exaone4": _exaone4,
    "gemma": _gemma1,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gemma4_text": _gemma4,
    "glm4": _glm4,
    "glm4_moe": _glm4_moe,
    "granite": _granite,
    "granitemoe": _granite_moe,
    "hunyuan_v1_dense": _hunyuan,
    "lfm2": _lfm2,
    "llama4_text": _llama4,
    "lfm2_moe": _lfm2_moe,
    "minimax_m2": _minimax_m2,
    "ministral3": _ministral3,
    "olmo": _olmo,
    "olmo2": _olmo2,
    "olmoe": _olmoe,
    "qwen2_moe": _qwen_moe,
    "qwen3_5": _qwen35,
    "qwen3_5_moe": _qwen35_moe,
    "qwen3_moe": _qwen_moe,
    "qwen3_next": _qwen3_next,
    "seed_oss": _seed_oss,
    "stablelm": _stablelm,
}
