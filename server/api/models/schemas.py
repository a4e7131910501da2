"""The wire types of /models."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.wire.base import WireModel
from server.wire.status import ModelState


class Capabilities(TypedDict):
    """What a model is good for. fim: fills in the middle of a text; prompt_scores: echo with logprobs"""

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
    created: Unix seconds; created_at: the same as text
    state: as in /status
    parameters: by route, the fields of a request that are honoured; in answers about one model
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    state: ModelState
    max_model_len: int | None
    context_length: int | None
    capabilities: Capabilities | None
    parameters: NotRequired[dict[str, list[str]] | None]
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
