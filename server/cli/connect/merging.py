"""Fit settings into a client's file without losing what stands there. Pure text in, text out."""

import json
import re
from collections.abc import Mapping
from typing import Any

from server.cli.connect.connection import ConnectFailed


def merge_json(present: str, *, settings: Mapping[str, Any]) -> str:
    """The file's JSON with the settings in it. Raises ConnectFailed for JSON with comments, which would be lost."""
    try:
        content = json.loads(present) if present.strip() else {}
    except ValueError:
        raise ConnectFailed(
            "The file has comments, or is not JSON: put the settings shown without --write into it by hand."
        ) from None
    if not isinstance(content, dict):
        raise ConnectFailed("The file holds no JSON object: look at it first.")
    return json.dumps(_merged(content, settings), indent=2, ensure_ascii=False) + "\n"


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {**old, **{key: _value(old.get(key), value) for key, value in new.items()}}


def _value(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return _merged(old, new)
    if isinstance(old, list) and isinstance(new, list):
        names = {each["name"] for each in new}
        return [each for each in old if not (isinstance(each, dict) and each.get("name") in names)] + new
    return new


def merge_list_of_models(present: str, *, name: str, item: str) -> str:
    """A YAML list of models with the item in place of the one with that model_id. Raises ConnectFailed."""
    if present.strip() and not re.search(r"^- ", present, re.MULTILINE):
        raise ConnectFailed("The file is no list of one model per `- `: put the lines shown without --write into it.")
    items = re.split(r"(?m)^(?=- )", present)
    marks = re.compile(rf"""^(?:- |  )model_id:\s*(["']?){re.escape(name)}\1\s*$""", re.MULTILINE)
    kept = "".join(each for each in items if not marks.search(each))
    return kept + ("\n" if kept and not kept.endswith("\n") else "") + item
