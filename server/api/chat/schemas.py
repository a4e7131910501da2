"""The wire types of /chat/completions."""

from typing import Annotated, Any, ClassVar, Literal, NotRequired, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.errors import InvalidRequest
from server.limits import (
    MAX_CALLS,
    MAX_INTEGER,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TEMPLATE_VARIABLE_CHARACTERS,
    MAX_TEMPLATE_VARIABLES,
    MAX_TEXT_CHARACTERS,
    MAX_TOKENS,
    MAX_TOOLS,
)
from server.wire.base import Name, Refusals, Text, WireModel
from server.wire.sampling import SamplingFields, refused_but
from server.wire.tools import BoundedObject, FunctionCallText, Tool, ToolCallOut, ToolChoice
from server.wire.usage import Usage


def _template_variables(variables: dict[str, Any]) -> dict[str, Any]:
    """Variables of any shape, without those that are null, which are unset."""
    level: list[Any] = [value for value in variables.values() if value is not None]
    while level:
        if any(isinstance(each, str) and len(each) > MAX_TEMPLATE_VARIABLE_CHARACTERS for each in level):
            limit = {"limit": MAX_TEMPLATE_VARIABLE_CHARACTERS}
            raise PydanticCustomError("invalid_value", "holds a text of more than {limit} characters", limit)
        if any(type(each) in (int, float) and not abs(each) <= MAX_INTEGER for each in level):
            raise PydanticCustomError("invalid_value", "holds a number beyond {limit}", {"limit": MAX_INTEGER})
        level = [inner for each in level if isinstance(each, dict | list) for inner in _inside(each)]
    return {name: value for name, value in variables.items() if value is not None}


def _inside(value: dict[str, Any] | list[Any]) -> list[Any]:
    return value if isinstance(value, list) else [*value, *value.values()]


TemplateVariables = Annotated[
    BoundedObject, Field(max_length=MAX_TEMPLATE_VARIABLES), AfterValidator(_template_variables)
]


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
    arguments: Text | BoundedObject = ""


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
    reasoning: Text | None = None
    tool_calls: list[ToolCall] = Field(default=[], max_length=MAX_CALLS)
    tool_call_id: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_older_call(cls, data: Any) -> Any:
        """`function_call` is a call, as `tool_calls` have them, without an id."""
        if not isinstance(data, dict) or not isinstance(data.get("function_call"), dict) or data.get("tool_calls"):
            return data
        return {**data, "tool_calls": [{"type": "function", "function": data["function_call"]}]}

    @model_validator(mode="after")
    def _require_content(self) -> Self:
        if "content" not in self.model_fields_set and self.role in ("system", "developer", "user"):
            raise PydanticCustomError("missing", "has no content")
        return self


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Reasoning(WireModel):
    """How much to think, in the form that routers of several providers use."""

    effort: Effort | None = None
    enabled: bool = True


class ConversationFields(WireModel):
    """The fields that make the prompt of a conversation.

    functions: the older form of tools; calls are answered in its own form
    """

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: TemplateVariables = Field(default={})
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    tools: list[Tool] = Field(default=[], max_length=MAX_TOOLS)
    functions: list[BoundedObject] = Field(default=[], max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ToolChoice = "auto"

    @model_validator(mode="before")
    @classmethod
    def _read_older_names(cls, data: Any) -> Any:
        """`functions` and `function_call` are tools and their choice."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        functions, choice = data.pop("functions", None), data.pop("function_call", None)
        if isinstance(functions, list) and data.get("tools") is None:
            data["tools"] = [{"type": "function", "function": each} for each in functions]
            data["functions"] = functions
        if data.get("tool_choice") is None:
            data["tool_choice"] = {"type": "function", "function": choice} if isinstance(choice, dict) else choice
        return data

    @model_validator(mode="after")
    def _pair_older_calls(self) -> Self:
        """Calls and results of the older form belong together by their order; templates want ids."""
        open_id = ""
        for index, message in enumerate(self.messages):
            for call in message.tool_calls:
                open_id = call.id = call.id or f"call{index:05d}"
            if message.role == "function" and message.tool_call_id is None:
                message.tool_call_id = open_id or None
        return self

    @model_validator(mode="after")
    def _check_ending(self) -> Self:
        asked = "add_generation_prompt" in self.model_fields_set and self.add_generation_prompt
        if self.continue_final_message and asked:
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt exclude each other.", param="continue_final_message"
            )
        return self

    @property
    def offered_tools(self) -> list[Tool]:
        """The functions that the model may call."""
        if isinstance(self.tool_choice, str):
            return [] if self.tool_choice == "none" else self.tools
        allowed = self.tool_choice.allowed_tools
        if allowed is None:
            return self.tools
        names = {each.function.name for each in allowed.tools}
        return [tool for tool in self.tools if tool.function.name in names]

    @property
    def forced_tools(self) -> list[Tool]:
        """The functions one of which the model has to call; none where it is free to answer."""
        choice = self.tool_choice
        if isinstance(choice, str):
            return self.tools if choice == "required" else []
        if choice.allowed_tools is not None:
            return self.offered_tools if choice.allowed_tools.mode == "required" else []
        name = choice.function.name if choice.function else None
        return [tool for tool in self.tools if tool.function.name == name]

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        choice = self.tool_choice
        forces = choice == "required" if isinstance(choice, str) else choice.forces
        if forces and not self.forced_tools:
            raise InvalidRequest("tool_choice asks for a tool that is not among tools.", param="tool_choice")
        return self


class ChatCompletionRequest(ConversationFields, SamplingFields):
    """The body of POST /chat/completions.

    include_reasoning: false leaves it out of the answer
    reasoning_format: "none" leaves it in the content
    thinking_token_budget: reasoning ends after so many tokens, if it has not before
    return_token_ids: prompt and answer also as ids
    return_tokens_as_token_ids: tokens in `logprobs` are spelled `token_id:7`
    """

    refused: ClassVar[Refusals] = {
        **refused_but("return_token_ids", "return_tokens_as_token_ids"),
        "web_search_options": lambda _: True,
        "modalities": lambda value: value != ["text"] and bool(value),
        "chat_template": bool,
        "add_special_tokens": bool,
        "echo": bool,
        "best_of": lambda value: value not in (0, 1),
    }

    max_completion_tokens: int | None = Field(default=None, ge=-1, le=MAX_TOKENS)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MAX_LOGPROBS)
    include_reasoning: bool = True
    reasoning_format: Name = "auto"
    parallel_tool_calls: bool = True
    thinking_token_budget: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False

    @property
    def several_calls(self) -> bool:
        """Whether a reply may hold more than one tool call; one that is named is called once."""
        is_named = not isinstance(self.tool_choice, str) and self.tool_choice.function is not None
        return self.parallel_tool_calls and not is_named and not self.functions

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
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
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallOut]]
    function_call: NotRequired[FunctionCallText]


class ChatDelta(TypedDict):
    """A piece of the reply; the role comes once, first."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallOut]]
    function_call: NotRequired[FunctionCallText]


class ChatChoice(TypedDict):
    """One whole reply."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]
    token_ids: NotRequired[list[int]]


class ChatChunkChoice(TypedDict):
    """A piece of one reply."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"] | None
    token_ids: NotRequired[list[int]]


class ChatCompletion(TypedDict):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: NotRequired[list[int]]


class ChatCompletionChunk(TypedDict):
    """One event of a stream. All of a stream share id, created and model."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
    prompt_token_ids: NotRequired[list[int]]
