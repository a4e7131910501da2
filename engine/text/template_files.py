"""Find a checkpoint's chat templates. Knows file names and metadata keys; renders nothing."""

from collections.abc import Mapping
from typing import Any

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.folder import ModelFolder
from engine.text.vocabulary_file import read_text

_MAX_FILE_BYTES = 64 << 20
_METADATA_KEY = "tokenizer.chat_template"
_FOLDER = "additional_chat_templates"


def read_templates(checkpoint: Checkpoint) -> dict[str, str]:
    """Templates by name: "default", and "tool_use" where the model has one; {} when it has none."""
    if checkpoint.gguf_metadata is not None:
        return _of_metadata(checkpoint.gguf_metadata)
    folder = ModelFolder(checkpoint.path)
    files = _of_files(folder)
    return files if "default" in files else {**_of_settings(folder), **files}


def _of_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """`tokenizer.chat_template`, and `tokenizer.chat_template.tool_use` for a template of that name."""
    found = {
        key.removeprefix(_METADATA_KEY).removeprefix(".") or "default": value
        for key, value in metadata.items()
        if isinstance(value, str) and (key == _METADATA_KEY or key.startswith(f"{_METADATA_KEY}."))
    }
    return found if "default" in found else {}


def _of_files(folder: ModelFolder) -> dict[str, str]:
    """A file with the default, and a folder of others by name."""
    places = {"default": (folder, "chat_template.jinja")}
    if folder.has(_FOLDER):
        places["tool_use"] = (folder.folder(_FOLDER), "tool_use.jinja")
    return {name: read_text(*place, _MAX_FILE_BYTES) for name, place in places.items() if place[0].has(place[1])}


def _of_settings(folder: ModelFolder) -> dict[str, str]:
    value = _value(folder, "chat_template.json") or _value(folder, "tokenizer_config.json")
    if isinstance(value, list):
        return {each["name"]: each["template"] for each in value if isinstance(each, dict) and _is_named(each)}
    return {"default": value} if isinstance(value, str) else {}


def _value(folder: ModelFolder, name: str) -> Any:
    return folder.json(name, _MAX_FILE_BYTES).get("chat_template") if folder.has(name) else None


def _is_named(template: Mapping[str, Any]) -> bool:
    return isinstance(template.get("name"), str) and isinstance(template.get("template"), str)
