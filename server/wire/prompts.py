"""The four forms of a prompt, or of a text to embed: a string, strings, a list of token ids, lists of them."""

from typing import Annotated, Any

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from server.limits import MAX_IDS, MAX_INTEGER, MAX_PROMPTS, MAX_TEXT_CHARACTERS
from server.wire.base import HALF_A_PAIR, Text, TokenId

Prompt = str | list[int]


def _prompts(value: Any) -> list[Prompt]:
    """All forms as a list of texts or lists of ids."""
    if isinstance(value, str):
        prompts: list[Any] = [value]
    elif isinstance(value, list) and value and all(type(item) is int for item in value):
        prompts = [value]
    else:
        prompts = value if isinstance(value, list) else []
    if not 1 <= len(prompts) <= MAX_PROMPTS or not all(_is_prompt(prompt) for prompt in prompts):
        raise PydanticCustomError(
            "invalid_value",
            "must be a string, a list of token ids, or a list of 1 to {limit} of either, none of them an empty list",
            {"limit": MAX_PROMPTS},
        )
    return prompts


def _is_prompt(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT_CHARACTERS and HALF_A_PAIR.search(value) is None
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_IDS:
        return False
    return all(type(item) is int and 0 <= item <= MAX_INTEGER for item in value)


_Ids = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_IDS)]
_Several = Annotated[list[Text | _Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
Prompts = Annotated[list[Prompt], PlainValidator(_prompts, json_schema_input_type=Text | _Ids | _Several)]
