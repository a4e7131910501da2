"""The wire types of /completions."""

from typing import Annotated, Any, ClassVar, Literal, NotRequired, Self

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.errors import InvalidRequest, UnsupportedParameter
from server.limits import MAX_LOGPROBS, MAX_PROMPTS, MAX_TOKENS, MAX_TRIES
from server.wire.base import Refusals, Text
from server.wire.prompts import Prompts
from server.wire.sampling import SamplingFields, refused_but
from server.wire.usage import Usage


def _logprobs_as_count(value: Any) -> Any:
    """`true` is seen in the wild for 1."""
    return {True: 1, False: None}.get(value, value) if isinstance(value, bool) else value


class CompletionRequest(SamplingFields):
    """The body of POST /completions. A prompt given as ids is used as it is.

    best_of: so many continuations are made, of which the n likeliest are answered
    suffix: what follows the text that is asked for
    prompt_logprobs: so many likely tokens for each of the prompt's, in a list of its own
    truncate_prompt_tokens: how many of a prompt's last tokens are kept; -1 leaves room for the answer, or for half of
        the context where the answer may be longer
    return_token_ids: prompt and answer also as ids
    return_tokens_as_token_ids: tokens in `logprobs` are spelled `token_id:7`
    """

    refused: ClassVar[Refusals] = {
        **refused_but("prompt_logprobs", "truncate_prompt_tokens", "return_token_ids", "return_tokens_as_token_ids"),
        "prompt_embeds": bool,
    }

    prompt: Prompts
    suffix: Text = ""
    max_tokens: int | None = Field(default=16, ge=-1, le=MAX_TOKENS)
    echo: bool = False
    logprobs: Annotated[int | None, BeforeValidator(_logprobs_as_count)] = Field(default=None, ge=0, le=MAX_LOGPROBS)
    best_of: int = Field(default=0, ge=0, le=MAX_TRIES)
    add_special_tokens: bool = True
    prompt_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1, le=MAX_TOKENS)
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False

    @property
    def num_tries(self) -> int:
        """Continuations that are made of a prompt."""
        return max(self.n, self.best_of)

    @property
    def scored_rivals(self) -> int | None:
        """The number of likely tokens to score at each token of the prompt; None where prompts are not scored."""
        wanted = (self.logprobs if self.echo else None, self.prompt_logprobs)
        return max((each for each in wanted if each is not None), default=None)

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if 0 < self.best_of < self.n and "best_of" in self.model_fields_set:
            raise InvalidRequest(f"best_of is {self.best_of}, but n is {self.n}.", param="best_of")
        if self.num_tries > self.n and self.stream:
            raise UnsupportedParameter("best_of", "it cannot be streamed: the best is known at the end")
        if self.num_tries > self.n and self.num_beams > 1:
            raise UnsupportedParameter("best_of", "it cannot be combined with beams, which come without scores")
        if self.suffix and self.echo and self.logprobs is not None:
            raise UnsupportedParameter("suffix", "it cannot be combined with echo and logprobs")
        if self.truncate_prompt_tokens == 0:
            raise InvalidRequest("truncate_prompt_tokens must be -1, or 1 at least.", param="truncate_prompt_tokens")
        if self.suffix and self.truncate_prompt_tokens is not None:
            raise UnsupportedParameter("truncate_prompt_tokens", "it cannot be combined with suffix")
        if len(self.prompt) * self.num_tries > MAX_PROMPTS:
            raise InvalidRequest(f"Prompts times n may be at most {MAX_PROMPTS}.", param="n")
        return self


class CompletionLogprobs(TypedDict):
    """Four lists of equal length, one entry per token. The first token of an echoed prompt has no score."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(TypedDict):
    """A likely token in the place of one of the prompt's. rank: 1 is the likeliest; null beyond those asked for"""

    logprob: float
    rank: int | None
    decoded_token: str


class CompletionChoice(TypedDict):
    """One continuation, or a piece of one. What is about the prompt comes with the first piece."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    prompt_logprobs: NotRequired[list[dict[str, PromptLogprob] | None]]
    prompt_token_ids: NotRequired[list[int]]
    token_ids: NotRequired[list[int]]


class Completion(TypedDict):
    """The whole answer and, with the same `id`, every chunk of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage]
