"""Tool calls written between tags, each argument by itself. Knows the tags of families; values follow the schema."""

import json
import re
from collections.abc import Mapping
from typing import Any

from server.parsing.piece import Call

# Function name -> JSON schema of its arguments.
Schemas = Mapping[str, Mapping[str, Any]]

_FUNCTION = re.compile(r"\s*+(?:<function=)?([^<>\n]{1,256}+)>(.*?)(?:</function>|\Z)\s*+", re.DOTALL)
_PARAMETER = re.compile(r"\s*+<parameter=([^>\n]{1,256}+)>(.*?)(?:</parameter>|(?=<parameter=)|\Z)\s*+", re.DOTALL)
_KEYED_NAME = re.compile(r"\s*+([^\s<{]{1,256}+)\s*+")
_KEYED = re.compile(r"\s*+<arg_key>(.*?)</arg_key>\s*+<arg_value>(.*?)(?:</arg_value>|\Z)\s*+", re.DOTALL)
_TAG = "(?:｜DSML｜)?"
_INVOKE = re.compile(rf'\s*+<{_TAG}invoke name="([^"]{{1,256}}+)">(.*?)(?:</{_TAG}invoke>|\Z)\s*+', re.DOTALL)
_NAMED = re.compile(
    rf'\s*+<{_TAG}parameter name="([^"]{{1,256}}+)"(?: string="(true|false)")?>(.*?)(?:</{_TAG}parameter>|\Z)\s*+',
    re.DOTALL,
)
_LITERALS = {"true": True, "false": False, "null": None, "none": None}


def read_function_tags(body: str, schemas: Schemas) -> list[Call] | None:
    """`<function=f><parameter=x>1</parameter></function>`, as Qwen3-Coder writes it."""
    calls = []
    for function in _all(_FUNCTION, body):
        parameters = _all(_PARAMETER, function[2])
        if function[2].strip() and not parameters:
            return None
        given = {each[1].strip(): _without_line_ends(each[2]) for each in parameters}
        calls.append(_call(function[1], given, schemas))
    return calls or None


def read_keyed_tags(body: str, schemas: Schemas) -> list[Call] | None:
    """`f<arg_key>x</arg_key><arg_value>1</arg_value>`, as GLM writes it."""
    name = _KEYED_NAME.match(body)
    if name is None:
        return None
    rest = body[name.end() :]
    parameters = _all(_KEYED, rest)
    if rest and not parameters:
        return None
    return [_call(name[1], {each[1].strip(): each[2] for each in parameters}, schemas)]


def read_invoke_tags(body: str, schemas: Schemas) -> list[Call] | None:
    """`<invoke name="f"><parameter name="x">1</parameter></invoke>`, as MiniMax and DeepSeek V3.2 write it."""
    calls = []
    for invoke in _all(_INVOKE, body):
        parameters = _all(_NAMED, invoke[2])
        if invoke[2].strip() and not parameters:
            return None
        declared = {each[1]: each[3] if each[2] == "true" else None for each in parameters}
        given = {each[1]: _without_line_ends(each[3]) for each in parameters}
        calls.append(_call(invoke[1], given, schemas, strings={key for key, text in declared.items() if text}))
    return calls or None


def value_of(text: str, schema: Mapping[str, Any] | None) -> Any:
    """An argument as its schema wants it; without one, JSON where it is JSON, else the text itself."""
    kinds = _kinds(schema)
    if kinds and kinds <= {"string"}:
        return text
    try:
        value = json.loads(text.strip())
    except (ValueError, RecursionError):
        return _LITERALS.get(text.strip().lower(), text) if kinds & {"boolean", "null"} else text
    if "string" in kinds and not isinstance(value, list | dict | None | bool):
        return text
    return value


def _all(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Matches that follow one another without a gap, from the first character to the last; else none."""
    found, place = [], 0
    while place < len(text):
        each = pattern.match(text, place)
        if each is None or each.end() == place:
            return []
        found.append(each)
        place = each.end()
    return found


def _call(name: str, given: Mapping[str, str], schemas: Schemas, strings: set[str] | None = None) -> Call:
    name = name.strip()
    properties = schemas.get(name, {}).get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    arguments = {
        key: text if strings and key in strings else value_of(text, properties.get(key)) for key, text in given.items()
    }
    return Call(name, json.dumps(arguments, ensure_ascii=False))


def _kinds(schema: Any) -> set[str]:
    """JSON types that a schema names, those of its alternatives included."""
    if not isinstance(schema, Mapping):
        return set()
    own = schema.get("type")
    kinds = {each for each in (own if isinstance(own, list) else [own]) if isinstance(each, str)}
    for alternatives in (schema.get("anyOf"), schema.get("oneOf")):
        for each in alternatives if isinstance(alternatives, list) else ():
            kinds |= _kinds(each)
    choices = schema.get("enum")
    if not kinds and isinstance(choices, list) and all(isinstance(each, str) for each in choices):
        return {"string"}
    return kinds


def _without_line_ends(text: str) -> str:
    return text.removeprefix("\n").removesuffix("\n")
