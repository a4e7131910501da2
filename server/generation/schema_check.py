"""The demands of a JSON schema on a text before a grammar is made of it. Loops where a client chooses the depth."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_LOOKS_AROUND = re.compile(r"\(\?(?:<?[=!]|>|P=|\()|\\[1-9]|\\k<")
# What is in them is data, not a schema.
PLAIN_KEYS = ("const", "enum", "default", "examples")
_BY_PATTERN = "patternProperties"
# Whether a schema is endless is found in one round for most; what takes more rounds is left to the limits of a grammar.
_MOST_ROUNDS = 32
Schema = Mapping[str, Any]


def without_lookaround(schema: Any) -> Any:
    """The schema without patterns that look around or back, which no grammar of tokens can follow."""
    if isinstance(schema, list):
        return [without_lookaround(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "pattern" and isinstance(value, str) and _LOOKS_AROUND.search(value):
            continue
        followed = _followed(value) if key == _BY_PATTERN else value
        kept[key] = followed if key in PLAIN_KEYS else without_lookaround(followed)
    return kept


def _followed(schemas: Any) -> Any:
    """Schemas by pattern, without those whose pattern looks around."""
    if not isinstance(schemas, dict):
        return schemas
    return {pattern: each for pattern, each in schemas.items() if not _LOOKS_AROUND.search(pattern)}


def is_endless(schema: Schema) -> bool:
    """Whether nothing finite can follow the schema, because all that it allows needs itself again.

    A part counts as finite once a text that ends is known for it; what is left when no more are found never ends.
    """
    parts = list(_reached(schema))[::-1]
    finite: set[int] = set()
    for _ in range(_MOST_ROUNDS):
        num_known = len(finite)
        for part in parts:
            if id(part) not in finite and _ends(part, schema, finite):
                finite.add(id(part))
        if len(finite) == num_known:
            return id(schema) not in finite
    return False


def _reached(root: Schema) -> Iterator[Schema]:
    """The schema and all that its text needs to hold, each once."""
    waiting, seen = [root], {id(root)}
    while waiting:
        part = waiting.pop()
        yield part
        for inner in (*_needed(part, root), *(each for choices in _choices(part) for each in choices)):
            if isinstance(inner, dict) and id(inner) not in seen:
                seen.add(id(inner))
                waiting.append(inner)


def _ends(part: Schema, root: Schema, finite: set[int]) -> bool:
    def known(inner: Any) -> bool:
        return not isinstance(inner, dict) or id(inner) in finite

    if "enum" in part or "const" in part:
        return True
    kinds = part.get("type")
    structures = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    is_free = bool(structures) and any(each not in ("object", "array") for each in structures)
    needed = (each for each in _needed(part, root, only_references=is_free))
    return all(map(known, needed)) and all(any(map(known, choices)) for choices in _choices(part))


def _choices(part: Schema) -> list[list[Any]]:
    return [part[key] for key in ("anyOf", "oneOf") if isinstance(part.get(key), list) and part[key]]


def _needed(part: Schema, root: Schema, *, only_references: bool = False) -> Iterator[Any]:
    """The schemas that every text of a part needs a text of."""
    reference = part.get("$ref")
    if isinstance(reference, str):
        yield _target(reference, root)
    if isinstance(part.get("allOf"), list):
        yield from part["allOf"]
    if only_references:
        return
    properties, required = part.get("properties"), part.get("required")
    if isinstance(properties, dict) and isinstance(required, list):
        yield from (properties[name] for name in required if isinstance(name, str) and name in properties)
    least = part.get("minItems")
    if isinstance(least, int) and least > 0:
        first = part.get("prefixItems")
        first = first[:least] if isinstance(first, list) else []
        yield from first
        if len(first) < least:
            yield part.get("items")


def _target(reference: str, root: Schema) -> Any:
    """The part that a reference points to; None where it points to nothing, which another check tells."""
    value: Any = root
    for step in reference.removeprefix("#").removeprefix("/").split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if not name:
            continue
        if isinstance(value, list) and name.isdecimal() and len(name) < 6:
            value = value[int(name)] if int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value
