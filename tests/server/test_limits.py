"""Every field of every request is bounded: numbers both ways, texts, lists and objects in size. Nothing is fetched."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import server.wire
from server.wire.base import WireModel

for module in pkgutil.iter_modules(server.wire.__path__, "server.wire."):
    importlib.import_module(module.name)


def wire_models(base: type = WireModel) -> list[type[WireModel]]:
    return [each for own in base.__subclasses__() for each in (own, *wire_models(own))]


def unbounded(schema: dict, path: str, definitions: dict) -> list[str]:
    """Places of a JSON schema where a value may be as large as a client likes."""
    found = []
    for key in ("anyOf", "oneOf", "allOf"):
        for each in schema.get(key, ()):
            found += unbounded(each, path, definitions)
    if "enum" in schema or "const" in schema or "$ref" in schema or "anyOf" in schema:
        return found
    kind = schema.get("type")
    if kind in ("integer", "number"):
        low = {"minimum", "exclusiveMinimum"} & schema.keys()
        found += [] if low and {"maximum", "exclusiveMaximum"} & schema.keys() else [path]
    elif kind == "string":
        found += [] if "maxLength" in schema or "}$" in schema.get("pattern", "") else [path]
    elif kind == "array":
        found += [] if "maxItems" in schema else [path]
        found += unbounded(schema.get("items", {}), f"{path}[]", definitions)
    elif kind == "object":
        inner = schema.get("additionalProperties")
        if isinstance(inner, dict):
            found += [] if "maxProperties" in schema else [path]
            found += unbounded(inner, f"{path}{{}}", definitions)
        elif inner is True and "maxProperties" not in schema:
            found.append(path)
        for name, each in schema.get("properties", {}).items():
            found += unbounded(each, f"{path}.{name}", definitions)
    elif kind is None and not schema.keys() & {"allOf", "oneOf"}:
        found.append(path)
    return found


@pytest.mark.parametrize(
    "model", sorted(set(wire_models()), key=lambda each: each.__name__), ids=lambda each: each.__name__
)
def test_every_field_is_bounded(model):
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    assert unbounded(schema, model.__name__, definitions) == []


def test_no_part_of_the_server_fetches_what_a_request_names():
    """Only pulling models and the commands of the terminal know how to open an address."""
    clients = re.compile(
        r"^\s*(?:import|from) (?:httpx|requests|urllib\.request|aiohttp|huggingface_hub)\b", re.MULTILINE
    )
    knows = {path.stem for path in Path("server").rglob("*.py") if clients.search(path.read_text())}
    assert not knows & {path.stem for path in (Path("server") / "routes").glob("*.py")}
    assert not knows & {path.stem for path in (Path("server") / "schemas").glob("*.py")}
