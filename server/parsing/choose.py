"""Find how a model writes reasoning and calls, from its chat template and its vocabulary. Reads signs, not names."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from server.parsing import harmony_parser
from server.parsing.formats import CALL_FORMATS, GENERIC, THINKING_FORMATS, CallFormat, ThinkingFormat
from server.parsing.harmony_parser import HarmonyParser
from server.parsing.reply_parser import ReplyParser
from server.parsing.tagged_calls import Schemas

Parser = ReplyParser | HarmonyParser
HasToken = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """How one model's replies are taken apart.

    thinking: None for models that do not reason
    calls: GENERIC where nothing shows another
    is_harmony: replies are messages on channels; thinking and calls are not used
    renders_tools: the template shows tools to the model; else they have to be described in words
    """

    thinking: ThinkingFormat | None = None
    calls: CallFormat = GENERIC
    is_harmony: bool = False
    renders_tools: bool = False

    def parser(self, schemas: Schemas | None, *, thinks: bool, is_thinking: bool) -> Parser | None:
        """A parser for one reply; None when there is nothing to look for.

        schemas: of the functions that may be called; None when none may
        thinks: reasoning is to be set apart
        is_thinking: the prompt has opened the reasoning already
        """
        if self.is_harmony:
            return HarmonyParser(takes_calls=schemas is not None)
        thinking = self.thinking if thinks else None
        calls = self.calls if schemas is not None else None
        if thinking is None and calls is None:
            return None
        return ReplyParser(thinking, calls, schemas or {}, is_thinking=is_thinking and thinking is not None)

    def markers(self, *, calls: bool) -> tuple[str, ...]:
        """All that a parser looks for."""
        if self.is_harmony:
            return harmony_parser.MARKERS
        own = self.thinking
        around = (own.begin, own.end, *own.silent) if own else ()
        return (*around, *self.calls.opens, *self.calls.closes, *self.calls.inner) if calls else around


def choose(template: str, has_token: HasToken) -> ReplyFormat:
    """The first rows whose signs are in the template, or else among the tokens."""

    def shown(sign: str) -> bool:
        return sign in template

    def known(sign: str) -> bool:
        return sign in template or has_token(sign)

    if harmony_parser.CHANNEL in template and harmony_parser.START in template:
        return ReplyFormat(is_harmony=True, renders_tools=True)
    thinking = next((each for each in THINKING_FORMATS if known(each.end) and all(map(shown, each.silent))), None)
    calls = _first(shown) or _first(known) or GENERIC
    return ReplyFormat(thinking, calls, renders_tools="tools" in template)


def _first(has: HasToken) -> CallFormat | None:
    return next((style for style in CALL_FORMATS if all(_any(has, sign) for sign in style.signs)), None)


def _any(has: HasToken, sign: str | tuple[str, ...]) -> bool:
    return any(map(has, sign if isinstance(sign, tuple) else (sign,)))


def needed_ids(markers: Iterable[str], special: Iterable[tuple[int, str]]) -> frozenset[int]:
    """Special tokens that a parser has to see: those whose spelling is part of a marker."""
    markers = tuple(markers)
    return frozenset(token_id for token_id, text in special if text and any(text in marker for marker in markers))
