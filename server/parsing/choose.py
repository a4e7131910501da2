"""Find how a model writes reasoning and calls, from its chat template and its vocabulary. Reads signs, not names."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from server.parsing import harmony_parser, recipient_parser
from server.parsing.argument_types import Schemas
from server.parsing.call_format import CallFormat
from server.parsing.formats import CALL_FORMATS, GENERIC, MUSE, THINKING_FORMATS, ThinkingFormat
from server.parsing.harmony_parser import HarmonyParser
from server.parsing.recipient_parser import RecipientParser
from server.parsing.reply_parser import ReplyParser

Parser = ReplyParser | HarmonyParser | RecipientParser
HasToken = Callable[[str], bool]
_CODE = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*+'|\"(?:[^\"\\]|\\.)*+\"", re.DOTALL)
_TOOLS = re.compile(r"(?<![.\w])tools\b")


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """How one model's replies are taken apart.

    thinking: None for models that do not reason
    calls: GENERIC where nothing shows another
    is_harmony: replies are messages on channels; thinking and calls are not used
    has_recipients: replies are messages to recipients; thinking is not used
    renders_tools: the template shows tools to the model; else they have to be described in words
    """

    thinking: ThinkingFormat | None = None
    calls: CallFormat = GENERIC
    is_harmony: bool = False
    has_recipients: bool = False
    renders_tools: bool = False

    def parser(
        self, schemas: Schemas | None, *, thinks: bool, is_thinking: bool, must_call: bool = False
    ) -> Parser | None:
        """A parser for one reply; None when there is nothing to look for.

        schemas: of the functions that may be called; None when none may
        thinks: reasoning is to be set apart
        is_thinking: the prompt has opened the reasoning already
        must_call: the reply is nothing but calls
        """
        if self.is_harmony:
            return HarmonyParser(takes_calls=schemas is not None, names=schemas or (), must_call=must_call)
        if self.has_recipients:
            return RecipientParser(schemas, must_call=must_call)
        thinking = self.thinking if thinks else None
        calls = self.calls if schemas is not None or self.calls.lead else None
        if thinking is None and calls is None:
            return None
        is_thinking = is_thinking and thinking is not None
        lead = calls.lead if calls and not is_thinking else ""
        return ReplyParser(thinking, calls, schemas or {}, is_thinking=is_thinking, must_call=must_call, lead=lead)

    def markers(self, *, calls: bool) -> tuple[str, ...]:
        """All that a parser looks for."""
        if self.is_harmony:
            return harmony_parser.MARKERS
        if self.has_recipients:
            return recipient_parser.MARKERS
        own = self.thinking
        around = (own.begin, own.end, *own.silent) if own else ()
        of_calls = (*self.calls.opens, *self.calls.closes, *self.calls.inner, *self.calls.silent)
        return (*around, *of_calls) if calls else around


def choose(template: str, has_token: HasToken) -> ReplyFormat:
    """The first rows whose signs are in the template, or else among the tokens.

    A template that never names the tools leaves it to words to describe them, and words ask for the generic form.
    """

    def shown(sign: str) -> bool:
        return sign in template

    def known(sign: str) -> bool:
        return sign in template or has_token(sign)

    if harmony_parser.CHANNEL in template and harmony_parser.START in template:
        return ReplyFormat(is_harmony=True, renders_tools=True)
    if all(_any(shown, sign) for sign in MUSE.signs):
        return ReplyFormat(calls=MUSE, has_recipients=True, renders_tools=True)
    thinking = next((each for each in THINKING_FORMATS if _has_signs(each, shown, known)), None)
    renders_tools = _names_tools(template)
    calls = (_first(shown) or _first(known)) if renders_tools or not _CODE.search(template) else None
    return ReplyFormat(thinking, calls or GENERIC, renders_tools=renders_tools)


def _has_signs(thinking: ThinkingFormat, shown: HasToken, known: HasToken) -> bool:
    if thinking.signs:
        return all(map(known, thinking.signs))
    return known(thinking.end) and all(map(shown, thinking.silent))


def _names_tools(template: str) -> bool:
    """Whether the template's code, apart from its texts, has a variable of that name."""
    code = [_TEXT.sub("", found[1]) for found in _CODE.finditer(template)]
    return any(map(_TOOLS.search, code)) if code else "tools" in template


def _first(has: HasToken) -> CallFormat | None:
    return next((style for style in CALL_FORMATS if all(_any(has, sign) for sign in style.signs)), None)


def _any(has: HasToken, sign: str | tuple[str, ...]) -> bool:
    return any(map(has, sign if isinstance(sign, tuple) else (sign,)))


def needed_ids(markers: Iterable[str], special: Iterable[tuple[int, str]]) -> frozenset[int]:
    """Special tokens that a parser has to see: those whose spelling is part of a marker."""
    markers = tuple(markers)
    return frozenset(token_id for token_id, text in special if text and any(text in marker for marker in markers))
