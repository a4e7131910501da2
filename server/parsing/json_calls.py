"""Tool calls written as JSON: what stands around their arguments, and how to read them as a whole. Knows keys."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from server.parsing.argument_types import Schemas
from server.parsing.json_text import json_text, read_json, whole_characters
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


def read_json_calls(body: str, schemas: Schemas, *, is_whole: bool = False) -> list[Call] | None:
    """All calls of a text that holds nothing else; None when it does."""
    try:
        calls = [call for value in _values(body) for call in _calls(value)]
    except (ValueError, RecursionError):
        return None
    return calls or None


def read_keyed_calls(body: str, schemas: Schemas, *, is_whole: bool = False) -> list[Call] | None:
    """`[{"f": {"x": 1}}, {"g": {}}]`, as Apertus writes it; calls in the usual form too."""
    try:
        values = [each for value in _values(body) for each in (value if isinstance(value, list) else [value])]
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(each, dict) and [*map(type, each.values())] == [dict] for each in values):
        return read_json_calls(body, schemas)
    return [Call(whole_characters(name), json_text(value)) for each in values for name, value in each.items()] or None


def _values(text: str) -> Iterator[Any]:
    """JSON values one after the other, with separators and a fence that models put around them."""
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
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
    return [Call(whole_characters(name), _arguments(next((value[key] for key in ARGUMENT_KEYS if key in value), None)))]


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return _valid(whole_characters(value)) or "{}"
    return "{}" if value is None else json_text(value)


def _valid(text: str) -> str:
    """Arguments as a model wrote them into a string, with null for the numbers that JSON lacks."""
    try:
        read_json(text)
    except (ValueError, RecursionError):
        with suppress(ValueError, RecursionError):
            return json_text(json.loads(text, parse_constant=lambda _: None))
    return text
