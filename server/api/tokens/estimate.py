"""The wire types of /estimate. Lengths are tokens, sizes bytes; a null is a figure that nobody knows yet."""

from typing import Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.api.tokens.schemas import TokenizeRequest
from server.limits import MAX_INTEGER
from server.wire.status import ModelState


class EstimateRequest(TokenizeRequest):
    """The body of POST /estimate: a prompt as /tokenize takes it, and how long the answer may become."""

    max_tokens: int = Field(default=1, ge=1, le=MAX_INTEGER)


class EstimatedMemory(TypedDict):
    """Whether the model can be in memory at all: what it needs, and what all models may take together."""

    needed_bytes: int
    budget_bytes: int
    fits: bool


class Estimate(TypedDict):
    """What a request with this prompt would meet now.

    fits: prompt and answer are within the context
    cached_tokens: of the prompt, found among those of earlier requests; uncached_tokens: to be computed
    requests_ahead: in the model's queue, and waiting for it to be loaded
    load_ms: 0 where the model is loaded, else how long that took the last time
    ttft_ms: to the first token, loading included, with nobody ahead; from the times of earlier prompts
    """

    object: Literal["estimate"]
    model: str
    state: ModelState
    prompt_tokens: int
    context_length: int | None
    fits: bool | None
    cached_tokens: int
    uncached_tokens: int
    requests_ahead: int
    load_ms: float | None
    ttft_ms: float | None
    memory: EstimatedMemory
