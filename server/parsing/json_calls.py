"""Tool calls written as JSON: what stands around their arguments, and how to read them as a whole. Knows keys."""

import json
import re
from collections.abc import Iterator
from typing import Any

from server.parsing.piece import Call

NAME_KEYS = ("name", "tool_name")
ARGUMENT_KEYS = ("arguments", "parameters", "args")
WRAPPER_KEYS = ("function", "tool_call", "tool_calls")
FIRST_KEYS = (*NAME_KEYS, *ARGUMENT_KEYS, *WRAPPER_KEYS, "id", "type", "tool_call_id")

# All repetitions are possessive: hostile text is read in linear time.
_NAME = r'"(?P<name>[^"\\]{1,256}+)"'
_FENCE = r"(?:```[a-z_]*+\s*+)?+"
_OTHER = r'"(?:id|type|tool_call_id)"\s*+:\s*+(?:"[^"\\]*+"|\d++)\s*+'
_WRAPPED = r'(?:"(?:function|tool_calls?)"\s*+:\s*+[\[{\s]*+)?+'

# Everything before the arguments of a call, from the end of the one before it.
OBJECT_HEAD = re.compile(
    rf"\s*+(?:,\s*+{_OTHER})*+[\s\]}},;]*+{_FENCE}[\s\[]*+\{{\s*+(?:{_OTHER},\s*+)*+{_WRAPPED}(?:{_OTHER},\s*+)*+"
    rf'"(?:name|tool_name)"\s*+:\s*+{_NAME}\s*+,\s*+(?:{_OTHER},\s*+)*+"(?:arguments|parameters|args)"\s*+:\s*+(?=\{{)'
)
# What may stand behind the last call without being text of its own.
OBJECT_TAIL = re.compile(rf"\s*+(?:,\s*+{_OTHER})*+[\s\]}},;]*+(?:```)?+\s*+")
_OPENING_FENCE = re.compile(r"\s*+```[a-z_]*+\s")


def read_json_calls(text: str, _: object = None) -> list[Call] | None:
    """All calls of a text that holds nothing else; None when it does."""
    try:
        calls = [call for value in _values(text) for call in _calls(value)]
    except (ValueError, RecursionError):
        return None
    return calls or None


def _values(text: str) -> Iterator[Any]:
    """JSON values one after the other, with separators and a fence that models put around them."""
    decoder = json.JSONDecoder()
    fence = _OPENING_FENCE.match(text)
    text = text[fence.end() :].strip().removesuffix("```") if fence else text
    place = _past(text, 0, " \t\r\n")
    while place < len(text):
        value, place = decoder.raw_decode(text, place)
        yield value
        place = _past(text, place, " \t\r\n;,")


def _past(text: str, place: int, characters: str) -> int:
    while place < len(text) and text[place] in characters:
        place += 1
    return place


def _calls(value: Any) -> list[Call]:
    if isinstance(value, list):
        return [call for each in value for call in _calls(each)]
    if not isinstance(value, dict):
        raise ValueError("a call is an object")  # noqa: TRY004  # the caller treats all that is no call alike
    for key in WRAPPER_KEYS:
        if isinstance(value.get(key), dict | list):
            return _calls(value[key])
    name = next((value[key] for key in NAME_KEYS if key in value), None)
    if not isinstance(name, str) or not name:
        raise ValueError("a call has no name")
    return [Call(name, _arguments(next((value[key] for key in ARGUMENT_KEYS if key in value), None)))]


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return value or "{}"
    return "{}" if value is None else json.dumps(value, ensure_ascii=False)
