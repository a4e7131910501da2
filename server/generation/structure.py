"""The form that a request asks of an answer, as rules of a grammar. Knows request fields; compiles nothing.

Schemas are looked through here, without recursion, before anything walks through them.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import GrammarInvalid
from server.errors import InvalidRequest
from server.generation.schema_check import PLAIN_KEYS, is_endless, without_lookaround
from server.limits import MAX_OBJECT_DEPTH, MAX_OBJECT_VALUES, MAX_SCHEMA_CHARACTERS
from server.wire.structure import StructureFields

# As Python writes JSON. A fixed form leaves fewer choices to the model, and no endless space between values.
_JSON_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LENIENT = ', "lenient": true'  # as a rule of JSON has it
_GBNF_ROOT = re.compile(r"[ \t]*root[ \t]*::=")
_TO_ESCAPE = re.compile(r"(\\[\s\S])|[/\n\r]|\\\Z")
_ESCAPES = {"/": r"\/", "\n": r"\n", "\r": r"\r"}


@dataclass(frozen=True, slots=True)
class Structure:
    """The form that an answer has to have.

    rule: an expression of Lark for all of it
    param: the field that asks for it
    part: a grammar of the client's own, which the rule calls @asked
    """

    rule: str
    param: str
    part: str | None = None


def structure_of(body: StructureFields) -> Structure | None:
    """The form that a request asks for; None for any text. Raises GrammarInvalid and InvalidRequest. Takes a while."""
    asked = [(param, make) for param, make in _asked(body) if make is not None]
    made = [make() for _, make in asked]
    # Some clients send one form under the names of several servers.
    if len({(each.rule.replace(_LENIENT, ""), each.part) for each in made}) > 1:
        names = " and ".join(param for param, _ in asked)
        raise InvalidRequest(f"{names} exclude each other.", param=asked[1][0])
    return made[0] if made else None


def json_rule(schema: Any, param: str, *, strict: bool) -> str:
    """JSON of a schema. strict: refuse keywords that cannot be enforced. Raises GrammarInvalid."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        reason = "nothing can satisfy it" if schema is False else "a schema is an object"
        raise GrammarInvalid(param, reason)
    _check_schema(schema, param)
    if is_endless(schema):
        raise GrammarInvalid(param, "it needs itself again and again: nothing that ends can satisfy it")
    if not strict:
        schema = without_lookaround(schema)
    form = _JSON_FORM if strict else {**_JSON_FORM, "lenient": True}
    return "%json " + _told_as_json({**schema, "x-guidance": form}, param)


def quoted(text: str, param: str) -> str:
    """Exactly this text. Raises GrammarInvalid."""
    return _told_as_json(text, param)


def _asked(body: StructureFields) -> list[tuple[str, Callable[[], Structure] | None]]:
    asked = body.structured_outputs
    outputs = [
        ("structured_outputs", _schema(asked.value, "structured_outputs")),
        ("structured_outputs", _schema({"type": "object"}, "structured_outputs") if asked.json_object else None),
        ("structured_outputs", _pattern(asked.regex, "structured_outputs")),
        ("structured_outputs", _words(asked.choice, "structured_outputs")),
        ("structured_outputs", _own_grammar(asked.grammar, "structured_outputs")),
    ]
    return [
        ("response_format", _response_format(body)),
        *outputs,
        ("guided_json", _schema(body.guided_json, "guided_json")),
        ("guided_regex", _pattern(body.guided_regex, "guided_regex")),
        ("guided_choice", _words(body.guided_choice, "guided_choice")),
        ("guided_grammar", _own_grammar(body.guided_grammar, "guided_grammar")),
        ("json_schema", _schema(body.json_schema, "json_schema")),
        ("grammar", _own_grammar(body.grammar, "grammar")),
    ]


def _response_format(body: StructureFields) -> Callable[[], Structure] | None:
    asked = body.response_format
    if asked.type == "text":
        return None
    param = body.called("response_format")
    if asked.type == "json_object":
        return _schema({"type": "object"} if asked.value is None else asked.value, param)
    named = asked.json_schema
    schema = asked.value if named is None else named.value
    if schema is None:
        raise GrammarInvalid(param, "json_schema holds no schema")
    return _schema(schema, param, strict=named is not None and named.strict)


def _schema(schema: Any, param: str, *, strict: bool = False) -> Callable[[], Structure] | None:
    if schema is None:
        return None
    return lambda: Structure(json_rule(_read_schema(schema, param), param, strict=strict), param)


def _read_schema(schema: Any, param: str) -> Any:
    """Some clients send a schema as text."""
    if not isinstance(schema, str):
        return schema
    if len(schema) > MAX_SCHEMA_CHARACTERS:
        raise GrammarInvalid(param, f"it is longer than {MAX_SCHEMA_CHARACTERS} characters")
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        raise GrammarInvalid(param, "it is no JSON") from None


def _pattern(pattern: str | None, param: str) -> Callable[[], Structure] | None:
    if pattern is None:
        return None

    def make() -> Structure:
        def escaped(found: re.Match[str]) -> str:
            if found[0] == "\\":
                raise GrammarInvalid(param, "it ends with a backslash")
            if found[1]:
                return _ESCAPES.get(found[1][1], found[1]) if found[1][1] in "\n\r" else found[1]
            return _ESCAPES[found[0]]

        _told_as_json(pattern, param)
        return Structure("/" + _TO_ESCAPE.sub(escaped, pattern) + "/", param)

    return make


def _words(words: list[str] | None, param: str) -> Callable[[], Structure] | None:
    if words is None:
        return None

    def make() -> Structure:
        rule = " | ".join(quoted(word, param) for word in dict.fromkeys(words))
        if len(rule) > MAX_SCHEMA_CHARACTERS:
            raise GrammarInvalid(param, f"its choices are longer than {MAX_SCHEMA_CHARACTERS} characters")
        return Structure(rule, param)

    return make


def _own_grammar(grammar: str | None, param: str) -> Callable[[], Structure] | None:
    """Lark as llguidance reads it, or llama.cpp's GBNF, whose first rule is called root. No text is no grammar."""
    if grammar is None or not grammar.strip():
        return None

    def make() -> Structure:
        _told_as_json(grammar, param)
        is_gbnf = any(map(_GBNF_ROOT.match, grammar.splitlines()))
        return Structure("@asked", param, _as_lark(grammar, param) if is_gbnf else grammar)

    return make


def _as_lark(gbnf: str, param: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark  # noqa: PLC0415  # few requests need it

    try:
        lark: str = gbnf_to_lark(gbnf)
    except Exception:  # noqa: BLE001  # whatever a converter of foreign text raises means that it cannot be read
        raise GrammarInvalid(param, "it is no grammar in GBNF") from None
    return lark


def _check_schema(schema: Mapping[str, Any], param: str) -> None:
    """Refuse what is too large or refers to elsewhere. Loops, so that depth cannot hurt."""
    level: list[tuple[Any, bool]] = [(schema, False)]
    num_values = num_characters = depth = 0
    while level:
        depth += 1
        below: list[tuple[Any, bool]] = []
        for value, is_data in level:
            children = value.items() if isinstance(value, dict) else ((None, each) for each in value)
            for key, child in children:
                num_values += 1
                num_characters += len(key or "") + (len(child) if isinstance(child, str) else 1)
                if key in ("$ref", "$dynamicRef") and not is_data and isinstance(child, str) and child[:1] != "#":
                    raise GrammarInvalid(param, f"{key} may only point into the schema itself, with #")
                if isinstance(child, dict | list):
                    below.append((child, is_data or key in PLAIN_KEYS))
            if num_values > MAX_OBJECT_VALUES or num_characters > MAX_SCHEMA_CHARACTERS:
                raise GrammarInvalid(param, f"it is longer than {MAX_SCHEMA_CHARACTERS} characters")
        if depth >= MAX_OBJECT_DEPTH and below:
            raise GrammarInvalid(param, f"it is nested deeper than {MAX_OBJECT_DEPTH} levels")
        level = below


def _told_as_json(value: Any, param: str) -> str:
    try:
        told = json.dumps(value, ensure_ascii=False, allow_nan=False)
        told.encode()
    except ValueError:  # also half a pair of surrogates
        raise GrammarInvalid(param, "it holds what is neither text nor a finite number") from None
    return told
