"""Prompts of /tokenize and /estimate as token ids. Knows templates and tokenizers; knows nothing of HTTP."""

from server.api.chat.prompt import encode_conversation
from server.api.tokens.schemas import TokenizeRequest
from server.models.text import ModelText


def prompt_ids(text: ModelText, body: TokenizeRequest) -> list[int]:
    """The token ids of the prompt. Raises TemplateFailed."""
    tokenizer = text.tokenizer
    if body.content is not None:
        return tokenizer.encode(body.content, add_special_tokens=body.add_special, parse_special=body.parse_special)
    if body.prompt is None:
        return list(encode_conversation(text, body))
    return tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens, parse_special=body.parse_special)
