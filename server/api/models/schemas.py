"""The wire types of /models and /estimate. Lengths are tokens, sizes bytes; null is a figure that is not known yet."""

from typing import Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.api.tokens.schemas import TokenizeRequest
from server.limits import MAX_INTEGER
from server.wire.base import WireModel
from server.wire.status import ModelState


class Capabilities(TypedDict):
    """The abilities of a model. fim: fills in the middle of a text; prompt_scores: echo with logprobs"""

    completion: bool
    chat: bool
    tools: bool
    reasoning: bool
    fim: bool
    prompt_scores: bool
    embeddings: bool
    rerank: bool
    vision: bool


class ModelCard(TypedDict):
    """One served model, in OpenAI's words and in Anthropic's. What is known of a loaded model only is null before.

    max_model_len, context_length, max_input_tokens, max_tokens: tokens
    root: the model's own name, where id is a name that a person gave it; aliases: its other names
    capabilities: null for clients of Anthropic's API, where the name means something else
    created: Unix seconds; created_at: the same as text
    state: as in /status
    reason: why it failed; retry_seconds: until requests try it again, 0 where the next one does
    parameters: by route, the fields of a request that are honoured; in answers about one model
    modalities: the kinds of input, and left_out: parts of the files that are not loaded ("vision") and how many tensors
        each has; in answers about one model
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    aliases: list[str]
    state: ModelState
    reason: str
    retry_seconds: int
    max_model_len: int | None
    context_length: int | None
    capabilities: Capabilities | None
    parameters: NotRequired[dict[str, list[str]] | None]
    modalities: NotRequired[list[Literal["text"]]]
    left_out: NotRequired[dict[str, int] | None]
    type: Literal["model"]
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int | None
    max_tokens: int | None


class LoadRequest(WireModel):
    """The body of POST /models/{id}/load, which needs none. pin: whether the model stays whatever happens"""

    pin: bool | None = None


class ModelList(TypedDict):
    """All models that can be served, the default first."""

    object: Literal["list"]
    data: list[ModelCard]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EstimateRequest(TokenizeRequest):
    """The body of POST /estimate: a prompt as /tokenize takes it, and how long the answer may become."""

    max_tokens: int = Field(default=1, ge=1, le=MAX_INTEGER)


class EstimatedMemory(TypedDict):
    """Whether the model can be in memory at all: what it needs, and what all models may take together."""

    needed_bytes: int
    budget_bytes: int
    fits: bool


class Estimate(TypedDict):
    """The size, the place and the time of a request with this prompt, were it sent now.

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
