"""The token counts of an answer."""

from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11


class PromptTokensDetails(TypedDict):
    """Prompt tokens that were not computed again."""

    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    """Generated tokens that are not part of the reply proper."""

    reasoning_tokens: int


class Usage(TypedDict):
    """Prompt tokens count once per prompt, generated tokens over all choices, end tokens included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class InputUsage(TypedDict):
    """Token counts of an answer for which nothing was generated."""

    prompt_tokens: int
    total_tokens: int
