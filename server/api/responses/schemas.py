"""The wire types of /responses: its request, and those parts of its answer that have a fixed shape."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.api.chat.schemas import Effort, TemplateVariables
from server.limits import (
    MAX_INCLUDED,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_METADATA,
    MAX_TOKENS,
    MAX_TOOLS,
)
from server.wire.base import Name, Refusals, Text, WireModel
from server.wire.sampling import SAMPLING_REFUSED, SamplingFields
from server.wire.tools import BoundedObject


class ReasoningOptions(WireModel):
    """How much to think. Summaries are not made: reasoning is shown as it is."""

    effort: Effort | None = None


class TextOptions(WireModel):
    """How the text is written; server.response_input reads the format. How many words it takes is up to the model."""

    format: BoundedObject = Field(default={"type": "text"})


class ResponseRequest(SamplingFields):
    """The body of POST /responses. `input` and `tools` are read by server.api.responses.prompt.

    truncation: nothing is ever cut; a prompt that does not fit is refused whatever it says
    """

    refused: ClassVar[Refusals] = {
        **SAMPLING_REFUSED,
        "background": bool,
        "conversation": bool,
        "prompt": bool,
        "context_management": bool,
        "moderation": bool,
        "prompt_cache_options": lambda value: isinstance(value, dict) and value.get("prewarm") is True,
        "n": lambda value: value != 1,
        "logprobs": bool,
    }

    input: Text | Annotated[list[BoundedObject], Field(max_length=MAX_MESSAGES)] = ""
    instructions: Text = ""
    max_output_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    previous_response_id: Name | None = None
    store: bool = True
    truncation: Literal["auto", "disabled"] = "disabled"
    reasoning: ReasoningOptions = ReasoningOptions()
    text: TextOptions = TextOptions()
    tools: list[BoundedObject] = Field(default=[], max_length=MAX_TOOLS)
    tool_choice: Name | BoundedObject = "auto"
    parallel_tool_calls: bool = True
    top_logprobs: int = Field(default=0, ge=0, le=MAX_LOGPROBS)
    include: list[Name] = Field(default=[], max_length=MAX_INCLUDED)
    metadata: dict[Name, Name] = Field(default={}, max_length=MAX_METADATA)
    chat_template_kwargs: TemplateVariables = Field(default={})


class InputTokensDetails(TypedDict):
    """Tokens that were found instead of computed; none are billed for being kept."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(TypedDict):
    """Tokens of reasoning."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """The token counts of an answer."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(TypedDict):
    """Why an answer failed."""

    code: str
    message: str


class Response(TypedDict):
    """The whole answer. Items of `output` are objects with a `type` each."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: bool
    error: ResponseError | None
    incomplete_details: dict[str, str] | None
    model: str
    output: list[dict[str, Any]]
    instructions: str | None
    metadata: dict[str, str]
    temperature: float
    top_p: float
    max_output_tokens: int | None
    previous_response_id: str | None
    service_tier: Literal["default"]
    parallel_tool_calls: bool
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    reasoning: dict[str, Any]
    store: bool
    text: dict[str, Any]
    top_logprobs: int
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: None


class DeletedResponse(TypedDict):
    """A response that is forgotten."""

    id: str
    object: Literal["response"]
    deleted: bool


class InputItems(TypedDict):
    """The items that a response was asked with."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(TypedDict):
    """The length of the prompt of a request, in tokens."""

    object: Literal["response.input_tokens"]
    input_tokens: int
