"""Settings in a GGUF that single families have, as their config.json says the same. Knows keys; knows no tensors.

Where a file leaves a setting out, llama.cpp's own value holds (src/models of its sources).
"""

from collections.abc import Callable, Mapping
from typing import Any

from engine.checkpoint.gguf_settings import GGUFSettings

Config = Mapping[str, Any]


def family_settings(settings: GGUFSettings, model_type: str, config: Config) -> dict[str, Any]:
    """Keys of config.json beyond those of all families. Raises CheckpointUnsupported and CheckpointCorrupt.

    config: the keys of all families
    """
    read = _READERS.get(model_type)
    return {} if read is None else read(settings, config)


def _gemma2(settings: GGUFSettings, config: Config) -> dict[str, Any]:
    is_27b = config["num_hidden_layers"] == 46
    return _gemma(settings, config, is_27b=is_27b) | {
        "sliding_window": settings.count("attention.sliding_window", 4096),
        "attn_logit_softcapping": settings.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": settings.number("final_logit_softcapping", 30.0),
    }


def _gemma3(settings: GGUFSettings, config: Config) -> dict[str, Any]:
    is_27b = config["num_hidden_layers"] == 62
    found = _gemma(settings, config, is_27b=is_27b) | _optional(settings, "final_logit_softcapping")
    found["rope_local_base_freq"] = settings.number("rope.freq_base_swa", 10_000.0)
    if not settings.has("attention.sliding_window"):
        return found | {"sliding_window_pattern": 1}
    return found | {
        "sliding_window": settings.count("attention.sliding_window"),
        "sliding_window_pattern": settings.count("attention.sliding_window_pattern", 6),
    }


def _gemma(settings: GGUFSettings, config: Config, *, is_27b: bool) -> dict[str, Any]:
    """The largest models alone have a scale of their own, which their files do not state."""
    activation = "gelu_pytorch_tanh"
    scalar = config["hidden_size"] // config["num_attention_heads"] if is_27b else config["head_dim"]
    return {"hidden_act": activation, "hidden_activation": activation, "query_pre_attn_scalar": scalar}


def _optional(settings: GGUFSettings, key: str) -> dict[str, float]:
    return {key: settings.number(key)} if settings.has(key) else {}


_READERS: dict[str, Callable[[GGUFSettings, Config], dict[str, Any]]] = {"gemma2": _gemma2, "gemma3_text": _gemma3}
