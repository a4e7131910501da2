"""The wire types of /tokenize, /detokenize, /tokenizer_info and /apply-template."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.api.chat.schemas import ChatMessage, ConversationFields
from server.errors import InvalidRequest
from server.limits import MAX_IDS, MAX_MESSAGES
from server.wire.base import Name, Text, TokenId, WireModel


class TemplateRequest(ConversationFields):
    """The body of POST /apply-template."""

    model: Name = ""


class TokenizeRequest(ConversationFields):
    """The body of POST /tokenize: one of `prompt`, `messages` and `content`, which gets a shorter answer.

    add_special_tokens: around `prompt`; add_special: around `content`
    parse_special: spelled-out control tokens in the text are these tokens
    """

    model: Name = ""
    messages: list[ChatMessage] = Field(default=[], max_length=MAX_MESSAGES)
    prompt: Text | None = None
    content: Text | None = None
    add_special_tokens: bool = True
    add_special: bool = False
    parse_special: bool = True
    return_token_strs: bool = False
    with_pieces: bool = False

    @model_validator(mode="after")
    def _require_one_text(self) -> Self:
        if sum((self.prompt is not None, self.content is not None, bool(self.messages))) != 1:
            raise InvalidRequest("One of prompt, messages and content is needed.", param="prompt")
        return self


class DetokenizeRequest(WireModel):
    """The body of POST /detokenize."""

    model: Name = ""
    tokens: Annotated[list[TokenId], Field(max_length=MAX_IDS)]


class TokenIds(TypedDict):
    """The long answer. max_model_len is null while the model is loaded."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None


class TokenPiece(TypedDict):
    """A token and its text; bytes where it is a piece of a character."""

    id: int
    piece: str | list[int]


class PlainTokens(TypedDict):
    """The short answer."""

    tokens: list[Any]


class PlainText(TypedDict):
    """The text of tokens, under the names that two kinds of client read."""

    prompt: str
    content: str


class RenderedPrompt(TypedDict):
    """A conversation as text."""

    prompt: str


class TokenizerInfo(TypedDict):
    """The facts that a client needs to count tokens by itself."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int | None
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None
