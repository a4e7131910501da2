"""The fields that completions and chat share: which model, how to sample, when to stop, how to stream."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from server.limits import (
    MAX_BAD_WORD_CHARACTERS,
    MAX_BAD_WORDS,
    MAX_BEAMS,
    MAX_BIASES,
    MAX_CHOICES,
    MAX_IDS,
    MAX_INTEGER,
    MAX_PRIORITY,
    MAX_STOP_CHARACTERS,
    MAX_STOP_IDS,
    MAX_STOPS,
    MAX_STOPS_CHARACTERS,
    MAX_TOKENS,
)
from server.wire.base import Name, Refusals, TokenId, WireModel
from server.wire.structure import StructureFields

Stop = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARACTERS)]
BadWord = Annotated[str, StringConstraints(min_length=1, max_length=MAX_BAD_WORD_CHARACTERS)]
TokenKey = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


def _stops_as_list(value: Any) -> Any:
    """One string is a list of one; empty strings and nulls stop nothing."""
    several = value if isinstance(value, list) else [value]
    return [stop for stop in several if stop not in ("", None)]


def _not_too_long(stops: list[str]) -> list[str]:
    """Each string once. Raises for more characters than may be looked for."""
    stops = list(dict.fromkeys(stops))
    if sum(map(len, stops)) > MAX_STOPS_CHARACTERS:
        raise PydanticCustomError(
            "too_long", "must hold {limit} characters at most in all", {"limit": MAX_STOPS_CHARACTERS}
        )
    return stops


class StreamOptions(WireModel):
    """The counts that a stream carries besides text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class SamplingFields(StructureFields):
    """Every field that shapes a continuation, for both APIs. max_tokens of -1 goes on until the context ends."""

    model: Name = ""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(default=None, ge=-1, le=MAX_TOKENS)
    min_tokens: int = Field(default=0, ge=0, le=MAX_TOKENS)
    stop: Annotated[list[Stop], BeforeValidator(_stops_as_list), AfterValidator(_not_too_long)] = Field(
        default=[], max_length=MAX_STOPS
    )
    stop_token_ids: list[TokenId] = Field(default=[], max_length=MAX_STOP_IDS)
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True

    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, ge=0, le=1)
    top_k: int = Field(default=0, ge=-1, le=MAX_INTEGER)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    allowed_token_ids: list[TokenId] | None = Field(default=None, min_length=1, max_length=MAX_IDS)
    bad_words: list[BadWord] = Field(default=[], max_length=MAX_BAD_WORDS)
    logit_bias: dict[TokenKey, Bias] = Field(default={}, max_length=MAX_BIASES)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**64 - 1)
    priority: int = Field(default=0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)

    num_beams: int = Field(default=1, ge=1, le=MAX_BEAMS)
    length_penalty: float = Field(default=1.0, ge=-100, le=100)
    early_stopping: bool | Literal["never"] = False
    no_repeat_ngram_size: int = Field(default=0, ge=0, le=64)
    forced_bos_token_id: TokenId | None = None
    forced_eos_token_id: TokenId | None = None


SAMPLING_REFUSED: Refusals = {
    "use_beam_search": bool,
    "prompt_logprobs": lambda value: value is not False,
    "truncate_prompt_tokens": lambda value: value is not False,
    "return_token_ids": bool,
    "return_tokens_as_token_ids": bool,
    "guided_whitespace_pattern": bool,
    "typical_p": lambda value: value not in (0, 1),
    "mirostat": bool,
    "dry_multiplier": bool,
    "xtc_probability": bool,
}


def refused_but(*honoured: str) -> Refusals:
    """The sampling fields of an API that honours some of them."""
    return {name: asks for name, asks in SAMPLING_REFUSED.items() if name not in honoured}
