"""The wire types of /embeddings."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.limits import MAX_TOKENS
from server.wire.base import Name, WireModel
from server.wire.prompts import Prompts
from server.wire.usage import InputUsage

# Tokens that an input is cut to; -1 is as many as the model reads. An input that is not to be cut has to fit.
Truncation = Annotated[int, Field(ge=-1, le=MAX_TOKENS)]


class EmbeddingRequest(WireModel):
    """The body of POST /embeddings. An input given as ids is used as it is, without special tokens or a prompt.

    input_type: "query", "document" and the like, for models that have prompts for them
    prompt_name: exactly this one of the model's prompts
    truncate: -1 for truncate_prompt_tokens
    normalize: vectors of length 1, whatever the checkpoint says
    """

    model: Name = ""
    input: Prompts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    input_type: Name | None = None
    prompt_name: Name | None = None
    truncate_prompt_tokens: Truncation | None = None
    truncate: bool = False
    normalize: bool | None = None


class Embedding(TypedDict):
    """One vector: numbers, or base64 of float32 in little-endian order."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(TypedDict):
    """Vectors in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: InputUsage
