"""The wire types of /chat/completions."""

from typing import Annotated, Any, ClassVar, Literal, NotRequired, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.errors import InvalidRequest
from server.schemas.base import MAX_TEXT_CHARACTERS, MAX_TOKENS, Name, Refusals, Text, WireModel
from server.schemas.sampling import SAMPLING_REFUSED, SamplingFields
from server.schemas.usage import Usage

MAX_MESSAGES = 16384
MAX_PARTS = 4096
MAX_TEMPLATE_VARIABLES = 32

TemplateVariable = bool | int | float | Annotated[str, StringConstraints(max_length=4096)]


def _text_of_content(value: Any) -> Any:
    """Text parts joined without a separator, which is how they were cut. Other kinds of part are refused."""
    if not isinstance(value, list):
        return value
    if len(value) > MAX_PARTS:
        raise PydanticCustomError("invalid_value", "may hold at most {limit} parts", {"limit": MAX_PARTS})
    return "".join(_text_of_part(part) for part in value)


def _text_of_part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "refusal"):
        raise PydanticCustomError("unsupported_value", "may hold only parts of type text: this model reads no others")
    text = part.get(kind)
    if not isinstance(text, str) or len(text) > MAX_TEXT_CHARACTERS:
        raise PydanticCustomError("invalid_value", "has a text part without a text")
    return text


class FunctionCall(WireModel):
    """A call of an earlier turn; arguments are JSON as text, or already an object."""

    name: Name = ""
    arguments: Any = ""


class ToolCall(WireModel):
    """A tool call of an earlier turn."""

    id: Name = ""
    type: Name = "function"
    function: FunctionCall = FunctionCall()


class ChatMessage(WireModel):
    """One turn of the conversation. `developer` is `system`; content may be absent only for turns of the model."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Text, BeforeValidator(_text_of_content)] = ""
    name: Name | None = None
    reasoning_content: Text | None = None
    tool_calls: list[ToolCall] = Field(default=[], max_length=1024)
    tool_call_id: Name | None = None

    @model_validator(mode="after")
    def _require_content(self) -> Self:
        if "content" not in self.model_fields_set and self.role in ("system", "developer", "user"):
            raise PydanticCustomError("missing", "has no content")
        return self


class Reasoning(WireModel):
    """How much to think, in the form that routers of several providers use."""

    effort: Name | None = None
    enabled: bool = True


class ChatCompletionRequest(SamplingFields):
    """The body of POST /chat/completions."""

    refused: ClassVar[Refusals] = {
        **SAMPLING_REFUSED,
        "tools": bool,
        "tool_choice": lambda value: value not in ("none", "auto"),
        "functions": bool,
        "function_call": lambda value: value not in ("none", "auto"),
        "modalities": lambda value: value != ["text"] and bool(value),
        "chat_template": bool,
        "add_special_tokens": bool,
        "include_reasoning": lambda value: value is False,
        "echo": bool,
        "best_of": lambda value: value not in (0, 1),
    }

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=-1, le=MAX_TOKENS)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[Name, TemplateVariable] = Field(default={}, max_length=MAX_TEMPLATE_VARIABLES)
    reasoning_effort: Name | None = None
    reasoning: Reasoning | None = None

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
        if (
            self.continue_final_message
            and self.add_generation_prompt
            and "add_generation_prompt" in self.model_fields_set
        ):
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt exclude each other.", param="continue_final_message"
            )
        for name in ("max_completion_tokens", "max_tokens"):
            if getattr(self, name) == 0:
                raise InvalidRequest(f"{name} must be at least 1, or -1 for no limit.", param=name)
        return self


class TopLogprob(TypedDict):
    """A likely token. `bytes` are exact where `token` is a piece of a character."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """The chosen token and its rivals."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """One entry per token of the content; end tokens are left out."""

    content: list[TokenLogprob]
    refusal: None


class AssistantMessage(TypedDict):
    """The whole reply."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatDelta(TypedDict):
    """A piece of the reply; the role comes once, first."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]


class ChatChoice(TypedDict):
    """One whole reply."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatChunkChoice(TypedDict):
    """A piece of one reply."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class ChatCompletion(TypedDict):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class ChatCompletionChunk(TypedDict):
    """One event of a stream. All of a stream share id, created and model."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage]
