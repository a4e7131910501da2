"""Models of text that are published inside models of text, pictures and sound. Knows names alone; no arrays.

The text model's configuration lies under `text_config`, and its tensors under a prefix. What belongs to towers for
other modalities, and to heads that predict several tokens, is left out and counted.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointUnsupported

# Prefixes of the text model's tensors, as Hugging Face and MLX write them, and what they become.
_TEXT_PREFIXES = (
    ("model.language_model.model.", "model."),
    ("model.language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.mtp.", "mtp."),
    ("language_model.", "model."),
    ("model.text_model.", "model."),
)
_PREDICTION = "multi-token prediction"
# First parts of the names of what is no part of the text model, and what it is.
_OTHER_PARTS = {
    "vision_tower": "vision",
    "vision_model": "vision",
    "visual": "vision",
    "vision_embedder": "vision",
    "embed_vision": "vision",
    "multi_modal_projector": "vision",
    "patch_merger": "vision",
    "mm_projector": "vision",
    "audio_tower": "audio",
    "audio_model": "audio",
    "embed_audio": "audio",
    "mtp": _PREDICTION,
}
_LAYER = re.compile(r"model\.layers\.(\d{1,6})\.", re.ASCII)
# The text model inside a wrapper whose text_config does not name it.
_TEXT_TYPES = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "llama4": "llama4_text",
    "mistral3": "mistral",
}
# Published wrappers leave out what their text model's class has by default.
_UNSTATED: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131_072,
    },
}
# Settings of the wrapper that hold for the text model where it has none of its own.
_INHERITED = (
    "tie_word_embeddings",
    "quantization",
    "quantization_config",
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
)
_NEVER_OWN = ("quantization", "quantization_config")


@dataclass(frozen=True, slots=True)
class TextModel:
    """The text model of a checkpoint.

    left_out: how many tensors of which other part there are
    """

    config: dict[str, Any]
    tensors: dict[str, TensorEntry]
    left_out: dict[str, int] = field(default_factory=dict)


def text_model(config: dict[str, Any], tensors: Mapping[str, TensorEntry]) -> TextModel:
    """The text model's own configuration and tensors, under the names of a checkpoint that holds nothing else.

    Raises CheckpointUnsupported where text_config is no object.
    """
    left_out = Counter(kind for name in tensors if (kind := _other_part(name)) is not None)
    own = {name: entry for name, entry in tensors.items() if _other_part(name) is None}
    if config.get("text_config") is not None:
        config = _text_config(config)
        own = {text_name(name): replace(entry, name=text_name(name)) for name, entry in own.items()}
    beyond = {name for name in own if _is_beyond(name, config)}
    left_out[_PREDICTION] += len(beyond)
    return TextModel(config, {name: own[name] for name in own if name not in beyond}, dict(+left_out))


def text_name(name: str) -> str:
    """A tensor's or a module's name without the wrapper's prefix."""
    for prefix, ours in _TEXT_PREFIXES:
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix)
    return name


def _text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    text = config["text_config"]
    if not isinstance(text, dict):
        raise CheckpointUnsupported("text_config", type(text).__name__, "an object")
    inherited = {key: config[key] for key in _INHERITED if config.get(key) is not None}
    text = {key: value for key, value in text.items() if value is not None and key not in _NEVER_OWN}
    text = inherited | text
    # The wrapper's own setting is what the whole model is built with.
    if isinstance(config.get("tie_word_embeddings"), bool):
        text["tie_word_embeddings"] = config["tie_word_embeddings"]
    text.setdefault("model_type", _TEXT_TYPES.get(str(config.get("model_type")), config.get("model_type")))
    text = _UNSTATED.get(str(text["model_type"]), {}) | text
    for key in _NEVER_OWN:
        if isinstance(text.get(key), dict):
            text[key] = {text_name(f"{name}.").removesuffix("."): value for name, value in text[key].items()}
    return text


def _is_beyond(name: str, config: Mapping[str, Any]) -> bool:
    """True for a tensor of the layers behind the last, which predict tokens behind the next (DeepSeek V3)."""
    match, num_layers = _LAYER.match(name), config.get("num_hidden_layers")
    if match is None or not config.get("num_nextn_predict_layers") or not isinstance(num_layers, int):
        return False
    return int(match[1]) >= num_layers


def _other_part(name: str) -> str | None:
    first, _, rest = name.removeprefix("language_model.").partition(".")
    if first == "model":
        first = rest.partition(".")[0]
    return _OTHER_PARTS.get(first)
