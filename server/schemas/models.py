"""The wire types of /models."""

from typing import Literal

from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11


class ModelCard(TypedDict):
    """One served model. max_model_len and context_length are tokens, null until the model has been loaded."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None
    context_length: int | None


class ModelList(TypedDict):
    """All served models, the default first."""

    object: Literal["list"]
    data: list[ModelCard]
