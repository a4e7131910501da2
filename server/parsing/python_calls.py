"""Tool calls written as calls of Python. Reads literals; evaluates nothing."""

import ast
import re
import warnings
from collections.abc import Iterable
from itertools import islice
from typing import Any

from server.parsing.argument_types import ArgumentTypes, Schemas
from server.parsing.json_text import json_text
from server.parsing.piece import Call

MAX_CHARACTERS = 1 << 20
_MAX_TRIES = 64
_WORDS = {"true": True, "false": False, "null": None}
_OPEN = re.compile(r"\s*+\[?\s*+(?=[A-Za-z_][\w.]{0,255}+\()")
_NAME = re.compile(r"([A-Za-z_][\w.]{0,255}+)\(\s*+")
_KEY = re.compile(r"([A-Za-z_]\w{0,255}+)\s*+=\s*+")
# Behind a text that is not written as Python would: another argument, another call, or the end.
_AFTER_TEXT = re.compile(r"\s*+(?:,\s*+[A-Za-z_]\w{0,255}+\s*+=|\)\s*+(?:,\s*+[A-Za-z_][\w.]{0,255}+\(|\]?\s*+\Z))")
_AFTER_VALUE = re.compile(r"(?=\s*+(?:,\s*+[A-Za-z_]\w{0,255}+\s*+=|\)))")


def read_python_calls(body: str, schemas: Schemas, *, is_whole: bool = False) -> list[Call] | None:
    """`[f(x=1), g()]`, one call a line, or `f.call(x=1)`; all arguments are named and literal."""
    if len(body) > MAX_CHARACTERS or "(" not in body:
        return None
    try:
        tree = _module(body.strip())
        return [_call(node) for statement in tree.body for node in _expressions(statement)] or None
    except (SyntaxError, MemoryError, RecursionError):
        return _loose_calls(body, schemas)
    except (ValueError, TypeError):
        return None


def _module(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of backslashes that Python would rather have doubled
        return ast.parse(text, mode="exec")


def _expressions(statement: ast.stmt) -> list[ast.expr]:
    if not isinstance(statement, ast.Expr):
        raise ValueError("only expressions are calls")  # noqa: TRY004  # the caller treats all that is no call alike
    value = statement.value
    return list(value.elts) if isinstance(value, ast.List | ast.Tuple) else [value]


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or any(each.arg is None for each in node.keywords):
        raise ValueError("a call has named arguments only")
    name = ast.unparse(node.func).removesuffix(".call")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError("a function is called by its name")
    words = _Words()
    arguments = {str(each.arg): ast.literal_eval(words.visit(each.value)) for each in node.keywords}
    return Call(name, json_text(arguments))


class _Words(ast.NodeTransformer):
    """Writes the words of JSON as those of Python."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A constant for a word of JSON."""
        return ast.Constant(_WORDS[node.id]) if node.id in _WORDS else node


def _loose_calls(body: str, schemas: Schemas) -> list[Call] | None:
    """Calls whose texts stand between quotes as they are: an end of a line, a quote and a backslash are themselves."""
    opening = _OPEN.match(body)
    if opening is None:
        return None
    place, calls = opening.end(), []
    while found := _NAME.match(body, place):
        try:
            arguments, place = _arguments(body, found.end(), ArgumentTypes(schemas.get(found[1])))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return None
        calls.append(Call(found[1].removesuffix(".call"), json_text(arguments)))
        place = _past(body, place, " \t\r\n,")
    return calls if calls and not body[place:].strip(" \t\r\n]") else None


def _arguments(body: str, place: int, types: ArgumentTypes) -> tuple[dict[str, Any], int]:
    given: dict[str, Any] = {}
    while not body.startswith(")", place):
        found = _KEY.match(body, place)
        if found is None:
            raise ValueError("an argument has no name")
        given[found[1]], place = _value(body, found.end(), types.argument(found[1]))
        place = _past(body, place, " \t\r\n,")
    return given, place + 1


def _value(body: str, place: int, types: ArgumentTypes) -> tuple[Any, int]:
    quote = body[place : place + 1]
    if quote in ("'", '"'):
        end = next((at for at in _places(body, quote, place + 1) if _AFTER_TEXT.match(body, at + 1)), None)
        if end is None:
            raise ValueError("a text has no end")
        return body[place + 1 : end], end + 1
    for found in islice(_AFTER_VALUE.finditer(body, place), _MAX_TRIES):
        tree = _parsed(body[place : found.start()])
        if tree is not None:
            return ast.literal_eval(_Words().visit(tree)), found.start()
    raise ValueError("a value is no literal")


def _parsed(text: str) -> ast.expr | None:
    try:
        (statement,) = _module(text.strip()).body
    except (SyntaxError, ValueError):
        return None
    return statement.value if isinstance(statement, ast.Expr) else None


def _places(body: str, mark: str, place: int) -> Iterable[int]:
    place = body.find(mark, place)
    while place >= 0:
        yield place
        place = body.find(mark, place + 1)


def _past(text: str, place: int, characters: str) -> int:
    while place < len(text) and text[place] in characters:
        place += 1
    return place
