"""Tool calls written as calls of a programming language. Reads literals; evaluates nothing."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from server.parsing.piece import Call
from server.parsing.tagged_calls import Schemas, value_of

MAX_CHARACTERS = 1 << 20
_MAX_DEPTH = 64
_BRACED = re.compile(r"\s*+call:([^\s{]{1,256}+)\s*+(?=\{)")
_KEY = re.compile(r"\s*+([^:{}\[\]]{1,256}+):")
_BARE = re.compile(r"[^,{}\[\]]*+")
_QUOTES = ('<|"|>', "<escape>", '"')


def read_python_calls(body: str, schemas: Schemas) -> list[Call] | None:
    """`[f(x=1), g()]`, one call a line, or `f.call(x=1)`; all arguments are named and literal."""
    if len(body) > MAX_CHARACTERS or "(" not in body:
        return None
    try:
        tree = ast.parse(body.strip(), mode="exec")
        return [_python_call(node) for statement in tree.body for node in _expressions(statement)] or None
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def read_braced_calls(body: str, schemas: Schemas) -> list[Call] | None:
    """`call:f{x:<|"|>text<|"|>,n:1}`, as Gemma writes it."""
    calls, place = [], 0
    try:
        while place < len(body.rstrip()):
            found = _BRACED.match(body, place)
            if found is None:
                return None
            properties = schemas.get(found[1], {}).get("properties")
            value, place = _read_object(body, found.end(), properties if isinstance(properties, Mapping) else {}, 0)
            calls.append(Call(found[1], json.dumps(value, ensure_ascii=False)))
    except ValueError:
        return None
    return calls or None


def _expressions(statement: ast.stmt) -> list[ast.expr]:
    if not isinstance(statement, ast.Expr):
        raise ValueError("only expressions are calls")  # noqa: TRY004  # the caller treats all that is no call alike
    value = statement.value
    return list(value.elts) if isinstance(value, ast.List | ast.Tuple) else [value]


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or any(each.arg is None for each in node.keywords):
        raise ValueError("a call has named arguments only")
    name = ast.unparse(node.func).removesuffix(".call")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError("a function is called by its name")
    arguments = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
    return Call(name, json.dumps(arguments, ensure_ascii=False))


def _read_value(text: str, place: int, schema: Any, depth: int) -> tuple[Any, int]:
    place = _past_space(text, place)
    if depth > _MAX_DEPTH:
        raise ValueError("values are nested too deeply")
    for quote in _QUOTES:
        if text.startswith(quote, place):
            end = text.find(quote, place + len(quote))
            if end < 0:
                raise ValueError("a string has no end")
            return text[place + len(quote) : end], end + len(quote)
    if text.startswith("{", place):
        return _read_object(text, place, {}, depth + 1)
    if text.startswith("[", place):
        return _read_list(text, place, depth + 1)
    found = _BARE.match(text, place)
    assert found is not None  # noqa: S101  # it matches the empty text too
    return value_of(found[0].strip(), schema), found.end()


def _read_object(text: str, place: int, properties: Mapping[str, Any], depth: int) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {}
    place = _past_space(text, place + 1)
    while not text.startswith("}", place):
        found = _KEY.match(text, place)
        if found is None:
            raise ValueError("a key is missing")
        key = found[1].strip()
        for quote in _QUOTES:
            key = key.removeprefix(quote).removesuffix(quote)
        values[key], place = _read_value(text, found.end(), properties.get(key), depth)
        place = _past_comma(text, place, "}")
    return values, place + 1


def _read_list(text: str, place: int, depth: int) -> tuple[list[Any], int]:
    values: list[Any] = []
    place = _past_space(text, place + 1)
    while not text.startswith("]", place):
        value, place = _read_value(text, place, None, depth)
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
