"""The JSON types that a schema allows, behind references and alternatives too, and a text read as one of them."""

import ast
from collections.abc import Mapping
from typing import Any

from server.parsing.json_text import json_text, read_json

# Function name -> JSON schema of its arguments.
Schemas = Mapping[str, Mapping[str, Any]]

_MAX_PARTS = 256
_PARTS = ("allOf", "anyOf", "oneOf")
_MAX_LITERAL_CHARACTERS = 1 << 16
_LITERALS = {"true": True, "false": False, "null": None, "none": None}


class ArgumentTypes:
    """The types of one function's arguments.

    schema: of all arguments
    whole: the schema that references are looked up in; the same one where it is not given
    """

    def __init__(self, schema: Mapping[str, Any] | None, whole: Mapping[str, Any] | None = None) -> None:
        self._schema = schema or {}
        self._whole = self._schema if whole is None else whole

    def value(self, key: str, text: str) -> Any:
        """An argument as its schema wants it; without one, JSON where it is JSON, else the text itself."""
        return value_of(text, self.argument(key).kinds())

    def argument(self, key: str) -> "ArgumentTypes":
        """The types inside of one argument."""
        declared = (each.get("properties") for each in self._merged())
        return self._part({"allOf": [each[key] for each in declared if isinstance(each, Mapping) and key in each]})

    def items(self) -> "ArgumentTypes":
        """The types of the items, where the schema is one of a list."""
        return self._part({"allOf": [each["items"] for each in self._merged() if "items" in each]})

    def kinds(self) -> frozenset[str]:
        """The types that the whole value may have; empty where the schema does not say."""
        return frozenset(self._kinds(self._schema, []))

    def _part(self, schema: Mapping[str, Any]) -> "ArgumentTypes":
        return ArgumentTypes(schema, self._whole)

    def _merged(self) -> list[Mapping[str, Any]]:
        """The schema and all that it is put together from, each once."""
        found: list[Mapping[str, Any]] = []
        waiting: list[Any] = [self._schema]
        while waiting and len(found) < _MAX_PARTS:
            schema = waiting.pop(0)
            if isinstance(schema, Mapping) and not any(each is schema for each in found):
                found.append(schema)
                waiting += [self._target(schema), *(each for key in _PARTS for each in _listed(schema.get(key)))]
        return found

    def _target(self, schema: Mapping[str, Any]) -> Any:
        """The part of the whole schema that a schema refers to."""
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        place: Any = self._whole
        for step in filter(None, reference[1:].split("/")):
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(place, list):
                place = place[int(name)] if name.isdecimal() and int(name) < len(place) else None
            else:
                place = place.get(name) if isinstance(place, Mapping) else None
        return place

    def _kinds(self, schema: Any, seen: list[Any]) -> set[str]:
        """The types of a schema; those of a part that was seen already say nothing more."""
        if not isinstance(schema, Mapping) or len(seen) > _MAX_PARTS or any(each is schema for each in seen):
            return set()
        seen.append(schema)
        kinds = _own_kinds(schema)
        for each in (self._target(schema), *_listed(schema.get("allOf"))):
            kinds = _both(kinds, self._kinds(each, seen))
        for key in ("anyOf", "oneOf"):
            among: set[str] = set()
            kinds = _both(kinds, among.union(*(self._kinds(each, seen) for each in _listed(schema.get(key)))))
        return kinds


def value_of(text: str, kinds: frozenset[str]) -> Any:
    """The text as a value of one of these types; of no types, JSON where it is JSON, else the text itself."""
    if kinds == {"string"}:
        return text
    word = text.strip()
    try:
        value = read_json(word)
    except (ValueError, RecursionError):
        return _literal(text, word, kinds)
    is_text = "string" in kinds and _kind(value) not in kinds - {"string", "integer", "number"}
    return text if is_text else value


def _literal(text: str, word: str, kinds: frozenset[str]) -> Any:
    """A value in the words of Python, where the schema asks for such a value."""
    if kinds & {"boolean", "null"} and word.lower() in _LITERALS:
        return _LITERALS[word.lower()]
    opens = {"array": "[", "object": "{"}
    if any(word.startswith(opens[kind]) for kind in kinds & opens.keys()) and len(word) < _MAX_LITERAL_CHARACTERS:
        try:
            value = ast.literal_eval(word)
            json_text(value)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return text
        return value
    return text


def _own_kinds(schema: Mapping[str, Any]) -> set[str]:
    own = schema.get("type")
    kinds = {each for each in (own if isinstance(own, list) else [own]) if isinstance(each, str)}
    if kinds:
        return kinds
    if "const" in schema:
        return {_kind(schema["const"])}
    choices = schema.get("enum")
    return {_kind(each) for each in choices} if isinstance(choices, list) else set()


def _both(kinds: set[str], others: set[str]) -> set[str]:
    """The types that two schemas of one value allow, each of which may leave them open."""
    if not kinds or not others:
        return kinds or others
    if "number" in kinds | others:
        kinds, others = (each | {"integer"} if "number" in each else each for each in (kinds, others))
    return kinds & others or kinds


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    names = ((str, "string"), (float, "number"), (list, "array"), (dict, "object"))
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
