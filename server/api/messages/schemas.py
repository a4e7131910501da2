"""The wire types of /messages and /messages/count_tokens: their request, and an answer of fixed shape."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.api.chat.schemas import Effort, TemplateVariables
from server.errors import ThreadUnsupported
from server.limits import MAX_MESSAGES, MAX_PARTS, MAX_STOPS, MAX_TOKENS, MAX_TOOLS
from server.wire.base import Refusals, Text, WireModel
from server.wire.sampling import SAMPLING_REFUSED, SamplingFields, Stop
from server.wire.tools import BoundedObject, FunctionName

# Blocks are read by server.message_input.
Blocks = Annotated[list[BoundedObject], Field(max_length=MAX_PARTS)]


class InputMessage(WireModel):
    """One turn; a system message may stand anywhere."""

    role: Literal["user", "assistant", "system"]
    content: Text | Blocks


class Thinking(WireModel):
    """Whether the model thinks first.

    budget_tokens: the thought ends after so many tokens, if it has not before
    display: "omitted" leaves the thought out of the answer
    """

    type: Literal["enabled", "adaptive", "disabled"] = "enabled"
    budget_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    display: Literal["summarized", "omitted"] = "summarized"


class OutputFormat(WireModel):
    """A JSON schema that the text has to follow."""

    type: Literal["json_schema"]
    json_schema: BoundedObject = Field(alias="schema")


class OutputConfig(WireModel):
    """How much to think, and what the text has to look like."""

    effort: Effort | None = None
    format: OutputFormat | None = None


class MessageToolChoice(WireModel):
    """Whether tools are to be called, and how many at once."""

    type: Literal["auto", "any", "tool", "none"] = "auto"
    name: FunctionName | None = None
    disable_parallel_tool_use: bool = False


class MessageFields(SamplingFields):
    """The fields that make the prompt of a message. `tools` are read by server.api.messages.prompt."""

    refused: ClassVar[Refusals] = {
        **SAMPLING_REFUSED,
        "container": bool,
        "mcp_servers": bool,
        "compaction": bool,
        "n": lambda value: value != 1,
        "logprobs": bool,
    }

    messages: list[InputMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: Text | Blocks = ""
    stop_sequences: list[Stop] = Field(default=[], max_length=MAX_STOPS)
    tools: list[BoundedObject] = Field(default=[], max_length=MAX_TOOLS)
    tool_choice: MessageToolChoice = MessageToolChoice()
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    chat_template_kwargs: TemplateVariables = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _refuse_threads(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("thread"):
            raise ThreadUnsupported
        return data


class MessageRequest(MessageFields):
    """The body of POST /messages."""


class CountTokensRequest(MessageFields):
    """The body of POST /messages/count_tokens."""


class TokenCount(TypedDict):
    """The length of the prompt of a request, in tokens."""

    input_tokens: int


class ThinkingDetails(TypedDict):
    """Tokens of reasoning, with the marks around it."""

    thinking_tokens: int


class MessageUsage(TypedDict):
    """Tokens that were found are not part of input_tokens."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingDetails


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class Message(TypedDict):
    """The whole answer. Blocks of `content` are objects with a `type` each."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
