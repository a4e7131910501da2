"""The wire types of /completions."""

from typing import Annotated, Any, ClassVar, Literal, NotRequired, Self

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import MAX_TOKENS, Refusals
from server.schemas.prompts import MAX_PROMPTS, Prompts
from server.schemas.sampling import SAMPLING_REFUSED, SamplingFields
from server.schemas.usage import Usage


def _logprobs_as_count(value: Any) -> Any:
    """`true` is seen in the wild for 1."""
    return {True: 1, False: None}.get(value, value) if isinstance(value, bool) else value


class CompletionRequest(SamplingFields):
    """The body of POST /completions. A prompt given as ids is used as it is; `best_of` above n is refused."""

    refused: ClassVar[Refusals] = {
        **SAMPLING_REFUSED,
        "suffix": bool,
        "prompt_embeds": bool,
    }

    prompt: Prompts
    max_tokens: int | None = Field(default=16, ge=-1, le=MAX_TOKENS)
    echo: bool = False
    logprobs: Annotated[int | None, BeforeValidator(_logprobs_as_count)] = Field(default=None, ge=0, le=20)
    best_of: int = Field(default=1, ge=0, le=20)
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _refuse_combinations(self) -> Self:
        if self.best_of > self.n:
            raise UnsupportedParameter("best_of", "it may not be larger than n")
        if self.echo and self.logprobs is not None:
            raise UnsupportedParameter("logprobs", "it cannot be combined with echo")
        if len(self.prompt) * self.n > MAX_PROMPTS:
            raise InvalidRequest(f"Prompts times n may be at most {MAX_PROMPTS}.", param="n")
        return self


class CompletionLogprobs(TypedDict):
    """Four lists of equal length, one entry per token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One continuation, or a piece of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(TypedDict):
    """The whole answer and, with the same `id`, every chunk of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage]
