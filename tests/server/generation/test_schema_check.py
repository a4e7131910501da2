"""Schemas that no text can follow are told before a grammar is made, and what no grammar can follow is left out."""

import time

import pytest

from engine.errors import GrammarInvalid
from server.generation.structure import json_rule

NEXT = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"], "additionalProperties": False}
TREE = {"type": "object", "properties": {"below": {"type": "array", "items": {"$ref": "#"}}}, "required": ["below"]}
EMAIL = r"^(?!\.)[a-z.]+@[a-z.]+$"


@pytest.mark.parametrize(
    "schema",
    [
        NEXT,
        {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}, NEXT]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
        {
            "$defs": {
                "a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]},
                "b": {"type": "array", "prefixItems": [{"$ref": "#/$defs/a"}], "minItems": 1},
            },
            "$ref": "#/$defs/a",
        },
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_schema_that_needs_itself_for_ever_is_refused(schema, strict):
    with pytest.raises(GrammarInvalid, match="needs itself"):
        json_rule(schema, "response_format", strict=strict)


@pytest.mark.parametrize(
    "schema",
    [
        TREE,
        {**NEXT, "required": []},
        {**NEXT, "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}},
        {**NEXT, "type": ["object", "null"]},
        {"type": "array", "items": {"$ref": "#"}},
        {"enum": [1], "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
        {"$ref": "#/$defs/missing"},
        {"type": ["string", "null"]},
    ],
)
def test_a_schema_that_may_end_is_left_to_the_grammar(schema):
    assert json_rule(schema, "response_format", strict=False).startswith("%json ")


def test_long_chains_of_references_are_followed_at_once():
    chain = {f"d{index}": {"$ref": f"#/$defs/d{index + 1}"} for index in range(5000)}
    for order in (chain, dict(reversed(chain.items()))):
        began = time.process_time()
        json_rule({"$ref": "#/$defs/d0", "$defs": {**order, "d5000": {"type": "null"}}}, "x", strict=False)
        assert time.process_time() - began < 5


@pytest.mark.parametrize("pattern", [EMAIL, "(?=a)b", "(?<!a)b", r"(a)\1", "(?>a)", r"(?P<n>a)(?P=n)"])
def test_patterns_that_look_around_are_ignored_unless_strict(pattern):
    schema = {
        "type": "object",
        "properties": {"to": {"type": "string", "pattern": pattern, "default": {"pattern": pattern}}},
        "patternProperties": {pattern: {"type": "null"}, "^x": {"type": "null"}},
    }
    rule = json_rule(schema, "tools", strict=False)
    assert '"patternProperties": {"^x"' in rule
    assert rule.count('"pattern": ') == 1  # the one that is data
    assert json_rule(schema, "tools", strict=True).count('"pattern": ') == 2


def test_patterns_that_only_look_like_it_are_kept():
    assert "pattern" in json_rule({"type": "string", "pattern": r"a\(b"}, "tools", strict=False)
