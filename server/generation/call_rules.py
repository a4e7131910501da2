"""Rules of a grammar for tool calls that a model has to make, in the form of its family. Knows shapes and schemas."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from engine.errors import GrammarInvalid
from server.generation.structure import json_rule, quoted
from server.limits import MAX_SCHEMA_CHARACTERS
from server.parsing.call_shapes import CallShape
from server.wire.tools import Tool

_PARAM = "tools"
_MOST_CALLS = 16
_GAP = re.compile(r"\$(name|arguments|parameters|key|value|type)")
# With one of these, other properties may be declared elsewhere.
_OPEN_KEYS = ("$ref", "allOf", "anyOf", "oneOf", "patternProperties", "additionalProperties", "unevaluatedProperties")
# Types of JSON schemas that JSON itself does not tell apart.
_TYPE_NAMES = {"integer": "number"}
Gaps = Mapping[str, str]


class CallRules:
    """The rules that a number of calls needs; `calls` is all of them.

    shapes: any of which the model may choose
    tools: that may be called; at least one
    special: ids of special tokens by their spelling
    only_one: there is exactly one call; else there may be several
    """

    def __init__(
        self, shapes: Iterable[CallShape], tools: Sequence[Tool], special: Mapping[str, int], *, only_one: bool
    ) -> None:
        self.rules: list[str] = []
        self._special = special
        self._marks = spellings(special)
        wholes = [self._whole(number, shape, tools, only_one=only_one) for number, shape in enumerate(shapes)]
        self.rules.append(f"calls: {' | '.join(wholes)}")
        if sum(map(len, self.rules)) > 2 * MAX_SCHEMA_CHARACTERS:
            raise GrammarInvalid(_PARAM, f"their schemas are longer than {MAX_SCHEMA_CHARACTERS} characters")

    def literal(self, text: str) -> str:
        """Exactly this text, in which special tokens are themselves; nothing for an empty one."""
        return literal(text, self._special, self._marks)

    def _whole(self, number: int, shape: CallShape, tools: Sequence[Tool], *, only_one: bool) -> str:
        names = [self._call(f"call_{number}_{index}", shape, tool) for index, tool in enumerate(tools)]
        self.rules.append(f"call_{number}: {' | '.join(names)}")
        more = ""
        if shape.between is not None and not only_one:
            more = f"({self.literal(shape.between)} call_{number}){{0,{_MOST_CALLS - 1}}}"
        return f"{self.literal(shape.begin)} call_{number} {more} {self.literal(shape.end)}"

    def _call(self, rule: str, shape: CallShape, tool: Tool) -> str:
        function = tool.function
        schema = _closed(function.parameters)
        gaps = {"name": self.literal(function.name)}
        if "$arguments" in shape.call:
            gaps["arguments"] = json_rule(schema, _PARAM, strict=function.strict)
        else:
            gaps["parameters"] = self._parameters(rule, shape, schema, strict=function.strict)
        self.rules.append(f"{rule}: {self._filled(shape.call, gaps)}")
        return rule

    def _parameters(self, rule: str, shape: CallShape, schema: Mapping[str, Any], *, strict: bool) -> str:
        """Parameters in the order of the schema, those that are not required or not. Rules `_first` come before the
        first of them, with `_next` a separator is due."""
        properties = schema.get("properties")
        required = schema.get("required")
        items = list(properties.items()) if isinstance(properties, dict) else []
        for index, (key, own) in enumerate(items):
            after = f"{rule}_next_{index + 1}"
            written = self._parameter(shape, key, _with_definitions(own, schema), strict=strict)
            must = isinstance(required, list) and key in required
            for state, separator in (("first", ""), ("next", self.literal(shape.separator))):
                skipped = "" if must else f" | {rule}_{state}_{index + 1}"
                self.rules.append(f"{rule}_{state}_{index}: {separator} {written} {after}{skipped}")
        self.rules += [f'{rule}_{state}_{len(items)}: ""' for state in ("first", "next")]
        return f"{rule}_first_0"

    def _parameter(self, shape: CallShape, key: str, schema: Any, *, strict: bool) -> str:
        own = schema if isinstance(schema, dict) else {}
        if own.get("type") != "string":
            value = json_rule(schema, _PARAM, strict=strict)
            kind = str(own.get("type", "object"))
            gaps = {"key": self.literal(key), "value": value, "type": self.literal(_TYPE_NAMES.get(kind, kind))}
            return self._filled(shape.parameter, gaps)
        choices = own.get("enum", [own["const"]] if "const" in own else None)
        if isinstance(choices, list) and choices and all(isinstance(each, str) for each in choices):
            value = "(" + " | ".join(quoted(each, _PARAM) for each in choices) + ")"
            return self._filled(shape.text_parameter, {"key": self.literal(key), "value": value})
        # A text goes on up to what ends it, with all that the shape has between the two.
        before, _, rest = shape.text_parameter.partition("$value")
        after = rest.partition(shape.text_end)[2]
        filled = self._filled(before, {"key": self.literal(key)})
        return f"{filled} {self._text_up_to(shape.text_end)} {self._filled(after, {'key': self.literal(key)})}"

    def _text_up_to(self, end: str) -> str:
        if not any(rule.startswith("text_up_to_end") for rule in self.rules):
            self.rules += text_up_to("text_up_to_end", end, self._special)
        return "text_up_to_end"

    def _filled(self, template: str, gaps: Gaps) -> str:
        parts, place = [], 0
        for found in _GAP.finditer(template):
            parts += [self.literal(template[place : found.start()]), gaps[found[1]]]
            place = found.end()
        return " ".join(filter(None, [*parts, self.literal(template[place:])]))


def spellings(special: Mapping[str, int]) -> re.Pattern[str]:
    """A pattern of the spellings of special tokens, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")


def literal(text: str, special: Mapping[str, int], marks: re.Pattern[str]) -> str:
    """The rule of exactly this text, in which special tokens are themselves; nothing for an empty one."""
    parts, place = [], 0
    for found in marks.finditer(text):
        parts += [text[place : found.start()], found[0]]
        place = found.end()
    parts.append(text[place:])
    return " ".join(f"<[{special[part]}]>" if part in special else quoted(part, _PARAM) for part in parts if part)


def text_up_to(rule: str, end: str, special: Mapping[str, int], limit: int | None = None) -> list[str]:
    """Rules for any text and what ends it.

    special: tokens that are part of no text, by their spelling; only with one of these as its end is a text limited
    limit: tokens of the text, at most
    """
    if end not in special:
        return [f"{rule}[suffix={quoted(end, _PARAM)}]: /(?s:.*)/"]
    attributes = "" if limit is None else f"[max_tokens={limit}]"
    return [f"{rule}: {rule}_inside <[{special[end]}]>", f"{rule}_inside{attributes}: /(?s:.*)/"]


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments are an object, of what the function declares unless it says that there may be others."""
    schema = {"type": "object", **parameters}
    is_open = any(key in schema for key in _OPEN_KEYS)
    return schema if is_open else {**schema, "properties": schema.get("properties", {}), "additionalProperties": False}


def _with_definitions(schema: Any, whole: Mapping[str, Any]) -> Any:
    """A part of a schema that can still refer to the definitions of the whole."""
    definitions = {key: whole[key] for key in ("$defs", "definitions") if key in whole}
    return {**definitions, **schema} if isinstance(schema, dict) else schema


def has_tokens(shape: CallShape, token_id: Callable[[str], int | None]) -> bool:
    """Whether a model was taught this shape."""
    return all(token_id(each) is not None for each in shape.needs)
