"""Find a checkpoint's chat templates. Knows file names and metadata keys; renders nothing."""

from collections.abc import Mapping
from typing import Any

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.folder import ModelFolder
from engine.text.vocabulary_file import read_text

_MAX_FILE_BYTES = 64 << 20


def read_templates(checkpoint: Checkpoint) -> dict[str, str]:
    """Templates by name: "default", and "tool_use" where the model has one; {} when it has none."""
    if checkpoint.gguf_metadata is not None:
        template = checkpoint.gguf_metadata.get("tokenizer.chat_template")
        return {"default": template} if isinstance(template, str) else {}
    folder = ModelFolder(checkpoint.path)
    if folder.has("chat_template.jinja"):
        return {"default": read_text(folder, "chat_template.jinja", _MAX_FILE_BYTES)}
    value = _value(folder, "chat_template.json") or _value(folder, "tokenizer_config.json")
    if isinstance(value, list):
        return {each["name"]: each["template"] for each in value if isinstance(each, dict) and _is_named(each)}
    return {"default": value} if isinstance(value, str) else {}


def _value(folder: ModelFolder, name: str) -> Any:
    return folder.json(name, _MAX_FILE_BYTES).get("chat_template") if folder.has(name) else None


def _is_named(template: Mapping[str, Any]) -> bool:
    return isinstance(template.get("name"), str) and isinstance(template.get("template"), str)
