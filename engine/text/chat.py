"""Messages to token ids, so that no text can pose as a control token. Knows templates and tokenizers, no HTTP."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from engine.text.template_habits import JsonObject, unused_mark

if TYPE_CHECKING:  # the server answers before Jinja is loaded
    from engine.text.chat_template import Message
    from engine.text.tokenizer import Tokenizer


class Spellings:
    """The spellings of some tokens, thousands if need be. A text is looked through once, whatever their number."""

    def __init__(self, spellings: Iterable[str]) -> None:
        self._spellings = frozenset(each for each in spellings if len(each) > 1)
        self._lengths = sorted({len(each) for each in self._spellings})
        firsts = "".join(re.escape(each) for each in sorted({each[0] for each in self._spellings}))
        self._first = re.compile(f"[{firsts}]") if firsts else None

    def broken(self, text: str, mark: str) -> str:
        """The text with a mark after the first character of every spelling in it."""
        if self._first is None:
            return text
        pieces: list[str] = []
        start = 0
        for match in self._first.finditer(text):
            at = match.start()
            if any(text[at : at + length] in self._spellings for length in self._lengths):
                pieces.append(text[start : at + 1])
                start = at + 1
        return mark.join([*pieces, text[start:]])


class Template(Protocol):
    """A chat template. sources: its text, and that of a second one for requests with tools"""

    sources: tuple[str, ...]

    def render(
        self,
        messages: "Sequence[Message]",
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The messages as the model was taught to read them. Raises TemplateFailed."""

    def close(self) -> None:
        """End what renders; the next rendering begins anew."""


def encode_chat(
    template: "Template",
    tokenizer: "Tokenizer",
    messages: "Sequence[Message]",
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> list[int]:
    """Render messages and encode them.

    A control token's spelling inside a message or a tool is broken by a mark before rendering, and the rendered text
    is encoded in pieces between the marks: only the template itself can write control tokens.
    Raises TemplateFailed.
    """
    spellings = Spellings(tokenizer.special_strings())
    mark = unused_mark((messages, tools or ()))
    text = template.render(
        _broken(messages, spellings, mark),
        tools=_broken(tools, spellings, mark),
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        variables=variables,
    )
    pieces = text.split(mark)
    return [token_id for piece in pieces if piece for token_id in tokenizer.encode(piece, add_special_tokens=False)]


def _broken(value: Any, spellings: Spellings, mark: str) -> Any:
    """The value with a mark after the first character of every special token's spelling in its strings."""
    if isinstance(value, str):
        return spellings.broken(value, mark)
    if isinstance(value, Mapping):
        broken = {_broken(key, spellings, mark): _broken(each, spellings, mark) for key, each in value.items()}
        return JsonObject(broken, spellings.broken(value.source, mark)) if isinstance(value, JsonObject) else broken
    return [_broken(each, spellings, mark) for each in value] if isinstance(value, list | tuple) else value
