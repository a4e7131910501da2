"""The files that a GGUF's header stands for: tokenizer, its settings with the chat template, and end tokens."""

import json
from typing import Any

from engine.checkpoint.checkpoint import Checkpoint
from engine.text.load import gguf_subwords, load_tokenizer
from engine.text.template_files import read_templates

_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


def gguf_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json and generation_config.json. Raises CheckpointError."""
    metadata = checkpoint.gguf_metadata
    assert metadata is not None
    tokenizer = load_tokenizer(checkpoint)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {role: text for role in _ROLES if (text := getattr(tokenizer, role)) is not None}
    settings |= {"model_max_length": checkpoint.config["max_position_embeddings"]}
    template = read_templates(checkpoint).get("default")
    if template is not None:
        settings["chat_template"] = template
    files = {
        "tokenizer.json": gguf_subwords(metadata, checkpoint.path.name).to_str().encode(),
        "tokenizer_config.json": _json(settings),
    }
    if checkpoint.generation_config:
        files["generation_config.json"] = _json(checkpoint.generation_config)
    return files


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
