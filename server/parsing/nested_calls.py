"""Tool calls whose values are nested elements, each tag behind a token of its own, as MiniMax M3 writes them."""

import re
from typing import Any

from server.parsing.argument_types import ArgumentTypes, Schemas, value_of
from server.parsing.json_text import json_text
from server.parsing.piece import Call

NAMESPACE = "]<]minimax[>["
_MAX_DEPTH = 64
_NS = re.escape(NAMESPACE)
_INVOKE = re.compile(rf'\s*+{_NS}<invoke name="([^"]{{1,256}}+)">')
_INVOKE_END = re.compile(rf"\s*+{_NS}</invoke>\s*+")
_OPEN = re.compile(rf"\s*+{_NS}<(?!/)([^<>]{{1,256}}+)>")
_AFTER = re.compile(rf"\s*+(?:{_NS}<|\Z)")
_EMPTY: dict[frozenset[str], Any] = {frozenset({"array"}): [], frozenset({"object"}): {}}


def read_nested_calls(body: str, schemas: Schemas, *, is_whole: bool = False) -> list[Call] | None:
    """`NS<invoke name="f">NS<x>1NS</x>NS</invoke>`, where lists are elements named `item`."""
    calls, place = [], 0
    try:
        while place < len(body.rstrip()):
            head = _INVOKE.match(body, place)
            if head is None:
                return None
            values, place = _children(body, head.end(), ArgumentTypes(schemas.get(head[1])), 0)
            end = _INVOKE_END.match(body, place)
            if end is None and (is_whole or body[place:].strip()):
                return None
            calls.append(Call(head[1], json_text(dict(values))))
            place = len(body) if end is None else end.end()
    except ValueError:
        return None
    return calls or None


def _children(body: str, place: int, types: ArgumentTypes, depth: int) -> tuple[list[tuple[str, Any]], int]:
    """The elements that follow one another from here on."""
    found = []
    while opening := _OPEN.match(body, place):
        name = opening[1]
        own = types.items() if name == "item" and depth else types.argument(name)
        value, place = _value(body, opening.end(), name, own, depth + 1)
        found.append((name, value))
    return found, place


def _value(body: str, place: int, name: str, types: ArgumentTypes, depth: int) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        raise ValueError("values are nested too deeply")
    closing = f"{NAMESPACE}</{name}>"
    kinds = types.kinds()
    if kinds != {"string"} and _OPEN.match(body, place):
        children, end = _children(body, place, types, depth)
        rest = body[end:]
        if rest.lstrip().startswith(closing):
            is_list = all(key == "item" for key, _ in children) and kinds != {"object"}
            value = [each for _, each in children] if is_list else dict(children)
            return value, end + rest.index(closing) + len(closing)
    end = body.find(closing, place)
    while end >= 0 and not _AFTER.match(body, end + len(closing)):
        end = body.find(closing, end + len(closing))
    if end < 0:
        raise ValueError("a value has no end")
    text = body[place:end]
    return (_EMPTY[kinds] if not text and kinds in _EMPTY else value_of(text, kinds)), end + len(closing)
