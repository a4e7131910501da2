"""Tool calls written with braces and keys that have no quotes, as Gemma does. Evaluates nothing."""

import re
from contextlib import suppress
from json import JSONDecoder
from typing import Any

from server.parsing.argument_types import ArgumentTypes, Schemas, value_of
from server.parsing.json_text import json_text
from server.parsing.piece import Call

_MAX_DEPTH = 64
_JSON = JSONDecoder()
_HEAD = re.compile(r"\s*+call:([^\s{]{1,256}+)\s*+(?=\{)")
_KEY = re.compile(r"\s*+([^:{}\[\]]{1,256}+):")
_BARE = re.compile(r"[^,{}\[\]]*+")
_QUOTES = ('<|"|>', "<escape>", '"')
# What may stand behind a text: another argument, another item, or the end of what it is in.
_AFTER_LAST = re.compile(r"\s*+(?:\}\s*+(?:call:|\Z)|,\s*+[^:{}\[\],]{1,256}+:)")
_AFTER_ARGUMENT = re.compile(r"\s*+(?:\}|,\s*+[^:{}\[\],]{1,256}+:)")
_AFTER_ITEM = re.compile(r"\s*+[\],]")


def read_braced_calls(body: str, schemas: Schemas, *, is_whole: bool = False) -> list[Call] | None:
    """`call:f{x:<|"|>text<|"|>,n:1}`, as Gemma writes it."""
    calls, place = [], 0
    try:
        while place < len(body.rstrip()):
            found = _HEAD.match(body, place)
            if found is None:
                return None
            value, place = _object(body, found.end(), ArgumentTypes(schemas.get(found[1])), 0)
            calls.append(Call(found[1], json_text(value)))
    except ValueError:
        return None
    return calls or None


def _value(text: str, place: int, types: ArgumentTypes, depth: int, after: re.Pattern[str]) -> tuple[Any, int]:
    place = _past_space(text, place)
    if depth > _MAX_DEPTH:
        raise ValueError("values are nested too deeply")
    for quote in _QUOTES:
        if text.startswith(quote, place):
            return _quoted(text, place + len(quote), quote, after)
    if text.startswith("{", place):
        return _object(text, place, types, depth + 1)
    if text.startswith("[", place):
        return _list(text, place, types.items(), depth + 1)
    found = _BARE.match(text, place)
    assert found is not None  # noqa: S101  # it matches the empty text too
    return value_of(found[0].strip(), types.kinds()), found.end()


def _quoted(text: str, start: int, quote: str, after: re.Pattern[str]) -> tuple[str, int]:
    """A text up to the first quote that what may follow stands behind; between plain quotes it is JSON, if it can."""
    if quote == '"':
        with suppress(ValueError):
            value, end = _JSON.raw_decode(text, start - 1)
            if after.match(text, end):
                return value, end
    end = text.find(quote, start)
    while end >= 0:
        if after.match(text, end + len(quote)):
            return text[start:end], end + len(quote)
        end = text.find(quote, end + len(quote))
    raise ValueError("a text has no end")


def _object(text: str, place: int, types: ArgumentTypes, depth: int) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {}
    place = _past_space(text, place + 1)
    while not text.startswith("}", place):
        found = _KEY.match(text, place)
        if found is None:
            raise ValueError("a key is missing")
        key = found[1].strip()
        for quote in _QUOTES:
            key = key.removeprefix(quote).removesuffix(quote)
        after = _AFTER_ARGUMENT if depth else _AFTER_LAST
        values[key], place = _value(text, found.end(), types.argument(key), depth, after)
        place = _past_comma(text, place, "}")
    return values, place + 1


def _list(text: str, place: int, types: ArgumentTypes, depth: int) -> tuple[list[Any], int]:
    values: list[Any] = []
    place = _past_space(text, place + 1)
    while not text.startswith("]", place):
        value, place = _value(text, place, types, depth, _AFTER_ITEM)
        values.append(value)
        place = _past_comma(text, place, "]")
    return values, place + 1


def _past_comma(text: str, place: int, end: str) -> int:
    place = _past_space(text, place)
    if text.startswith(",", place):
        return _past_space(text, place + 1)
    if not text.startswith(end, place):
        raise ValueError("a separator is missing")
    return place


def _past_space(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place
