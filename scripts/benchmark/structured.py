"""What schemas cost: replies that have to follow one against replies that are free, at the same temperature."""

import asyncio
import json
import time
from collections import deque
from itertools import cycle, islice
from typing import Any

from client import Server
from prompts import Prompts, Sizes

_REPLIES = 40  # a round; the default five rounds are 200
_WORD = {"type": "string", "maxLength": 24}
_PERSON = {
    "type": "object",
    "properties": {
        "name": _WORD,
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "trade": {"enum": ["baker", "smith", "gardener", "teacher"]},
    },
    "required": ["name", "age", "trade"],
    "additionalProperties": False,
}
_SCHEMAS: tuple[dict[str, Any], ...] = (
    _PERSON,
    {
        "type": "object",
        "properties": {
            "title": _WORD,
            "people": {"type": "array", "items": _PERSON, "minItems": 1, "maxItems": 2},
            "is_true": {"type": "boolean"},
        },
        "required": ["title", "people", "is_true"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
            "day": {"type": "string", "format": "date"},
            "notes": {"type": "array", "items": _WORD, "maxItems": 3},
        },
        "required": ["code", "day", "notes"],
        "additionalProperties": False,
    },
)


async def structured(server: Server, prompts: Prompts, sizes: Sizes) -> dict[str, float]:
    """As many replies as streams at once, of schemas that are strict; then free ones of as many tokens."""
    try:
        import jsonschema
    except ImportError:
        raise SystemExit("this judges replies with jsonschema: pip install jsonschema") from None
    schemas = list(islice(cycle(_SCHEMAS), _REPLIES))
    bodies = [_strict(prompts.text(24), schema) for schema in schemas]
    replies, seconds = await _ask_all(server, bodies, sizes.streams)
    tokens = sum(reply["usage"]["completion_tokens"] for reply in replies)
    num_valid = sum(_follows(reply, schema, jsonschema) for reply, schema in zip(replies, schemas, strict=True))
    free = [_free(prompts.text(24), reply["usage"]["completion_tokens"]) for reply in replies]
    free_replies, free_seconds = await _ask_all(server, free, sizes.streams)
    free_tokens = sum(reply["usage"]["completion_tokens"] for reply in free_replies)
    return {
        f"replies that follow their schema, of {_REPLIES}": num_valid,
        "tokens/s, schemas": tokens / seconds,
        "tokens/s, free": free_tokens / free_seconds,
        "schemas to free, %": 100 * (tokens / seconds) / (free_tokens / free_seconds),
    }


def _strict(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    described = {"name": "answer", "strict": True, "schema": schema}
    return _chat(f"Answer in JSON. {text}") | {
        "max_tokens": 512,
        "response_format": {"type": "json_schema", "json_schema": described},
    }


def _free(text: str, tokens: int) -> dict[str, Any]:
    return _chat(f"Tell a story. {text}") | {"max_tokens": tokens, "ignore_eos": True}


def _chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 1}


def _follows(reply: dict[str, Any], schema: dict[str, Any], jsonschema: Any) -> bool:
    choice = reply["choices"][0]
    try:
        jsonschema.validate(json.loads(choice["message"]["content"]), schema, jsonschema.Draft202012Validator)
    except (ValueError, jsonschema.ValidationError):
        return False
    return choice["finish_reason"] == "stop"


async def _ask_all(server: Server, bodies: list[dict[str, Any]], at_once: int) -> tuple[list[dict[str, Any]], float]:
    """Replies in the order of their requests, and the seconds they took together."""
    left = deque(enumerate(bodies))
    replies: list[Any] = [None] * len(bodies)

    async def ask() -> None:
        while left:
            place, body = left.popleft()
            replies[place] = await server.chat(body)

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(at_once)))
    return replies, time.perf_counter() - started
