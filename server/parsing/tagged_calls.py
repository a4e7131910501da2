"""Tool calls written between tags, each argument by itself. Knows how tags follow one another; types are the schema's.

A value may hold every tag of its format: a closing tag ends it only where a tag that may follow comes next.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from server.parsing.argument_types import ArgumentTypes, Schemas
from server.parsing.json_text import json_text, read_json
from server.parsing.piece import Call

_NAME = r"[^<>\n\"]{1,256}+"


def _as_it_is(text: str) -> str | None:
    return text


def without_line_ends(text: str) -> str | None:
    """The value without the line ends that its format puts around it."""
    return text.removeprefix("\n").removesuffix("\n")


def without_cdata(text: str) -> str | None:
    """The value without the wrapper of XML; None where the wrapper goes on."""
    if not text.startswith("<![CDATA["):
        return text
    return text[len("<![CDATA[") : -len("]]>")] if text.endswith("]]>") and len(text) > len("<![CDATA[]]") else None


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of a format, as patterns.

    function: before a call's arguments, with the group `name`
    opening: before that; missing where it was the marker that opened the calls
    parameter: before a value, with the group `key`, and perhaps `type`, which is "string" or "true" for a text; without
        a key, the value is an object of all arguments
    value_end, function_end: behind a value, and behind the last one; the second is missing at the end of a text
    several: calls may follow one another
    unwrap: a value without what the format puts around it; None where the value goes on
    """

    function: str
    parameter: str
    value_end: str
    function_end: str = ""
    opening: str = ""
    several: bool = True
    unwrap: Callable[[str], str | None] = _as_it_is

    def reader(self) -> "TagReader":
        """A reader of such calls."""
        return TagReader(self)


class TagReader:
    """Reads calls between tags."""

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        flags = re.DOTALL
        self._first = re.compile(rf"\s*+(?:{tags.opening})?+{tags.function}", flags)
        self._function = re.compile(rf"\s*+{tags.opening}{tags.function}", flags)
        self._parameter = re.compile(rf"\s*+{tags.parameter}", flags)
        self._value_end = re.compile(tags.value_end)
        own_end = tags.function_end or r"\Z"
        self._function_end = re.compile(rf"\s*+{own_end}\s*+")
        self._function_end_or_none = re.compile(rf"\s*+(?:{own_end}|\Z)\s*+")
        more = rf"{tags.opening}{_unnamed(tags.function)}|\Z" if tags.several else r"\Z"
        end = rf"{tags.function_end}\s*+(?:{more})" if tags.function_end else r"\Z"
        self._after_value = re.compile(rf"\s*+(?:{_unnamed(tags.parameter)}|{end})", flags)
        self._after_value_or_none = re.compile(rf"\s*+(?:{_unnamed(tags.parameter)}|{end}|\Z)", flags)
        inner = rf"(?:(?!{tags.value_end}).)*?"
        stop = rf"\s*+{_unnamed(tags.parameter)}|\s*+{tags.function_end or '$'}|\Z"
        self._unclosed = re.compile(rf"({inner})(?={stop})", flags)

    def __call__(self, body: str, schemas: Schemas, *, is_whole: bool = False) -> list[Call] | None:
        """All calls of a text that holds nothing else; None when it does.

        is_whole: every value and every call has its end; else what is missing at the end is forgiven
        """
        calls: list[Call] = []
        place = 0
        while place < len(body) and (self._tags.several or not calls):
            head = (self._function if calls else self._first).match(body, place)
            if head is None:
                return None
            name = head["name"].strip()
            try:
                given, place = self._values(body, head.end(), ArgumentTypes(schemas.get(name)), is_whole=is_whole)
            except ValueError:
                return None
            ending = self._function_end if is_whole else self._function_end_or_none
            end = ending.match(body, place) if place >= 0 else None
            if end is None:
                return None
            calls.append(Call(name, json_text(given)))
            place = end.end()
        return calls if calls and place == len(body) else None

    def _values(self, body: str, place: int, types: ArgumentTypes, *, is_whole: bool) -> tuple[dict[str, Any], int]:
        """The arguments from here on, and where they end; a negative place where one has no end."""
        given: dict[str, Any] = {}
        while found := self._parameter.match(body, place):
            value, place = self._value(body, found.end(), is_whole=is_whole)
            if value is None:
                return {}, -1
            if found["key"] is None:
                given |= _object(value)
                continue
            key, declared = found["key"].strip(), found.groupdict().get("type")
            given[key] = value if declared in ("string", "true") else types.value(key, value)
        return given, place

    def _value(self, body: str, start: int, *, is_whole: bool) -> tuple[str | None, int]:
        after = self._after_value if is_whole else self._after_value_or_none
        for end in self._value_end.finditer(body, start):
            value = self._tags.unwrap(body[start : end.start()])
            if value is not None and after.match(body, end.end()):
                return value, end.end()
        rest = None if is_whole else self._unclosed.match(body, start)
        return (None, -1) if rest is None else (self._tags.unwrap(rest[1]) or rest[1], rest.end())


def _object(text: str) -> dict[str, Any]:
    value = read_json(text)
    if not isinstance(value, dict):
        raise ValueError("arguments are an object")  # noqa: TRY004  # the caller treats all that is no call alike
    return value


def _unnamed(pattern: str) -> str:
    return re.sub(r"\(\?P<\w+>", "(?:", pattern)


FUNCTION_TAGS = Tags(
    rf"(?P<name>{_NAME})>",
    r"<parameter=(?P<key>[^>\n]{1,256}+)>",
    "</parameter>",
    "</function>",
    opening="<function=",
    unwrap=without_line_ends,
)
SEED_TAGS = replace(FUNCTION_TAGS, unwrap=_as_it_is)
KEYED_TAGS = Tags(
    r"(?P<name>[^\s<{]{1,256}+)\s*+", r"<arg_key>(?P<key>[^<]{0,256}+)</arg_key>\s*+<arg_value>", "</arg_value>",
    several=False,
)  # fmt: skip
_SUFFIX = ":opensource"
SUFFIXED_TAGS = Tags(
    rf"<tool_call{_SUFFIX}>\s*+(?P<name>[^\s<]{{1,256}}+)<tool_sep{_SUFFIX}>\s*+",
    rf"<arg_key{_SUFFIX}>(?P<key>[^<]{{0,256}}+)</arg_key{_SUFFIX}>\s*+<arg_value{_SUFFIX}>",
    f"</arg_value{_SUFFIX}>",
    f"</tool_call{_SUFFIX}>",
)


def _invoke_tags(prefix: str) -> Tags:
    return Tags(
        rf'<{prefix}invoke name="(?P<name>[^"]{{1,256}}+)">',
        rf'<{prefix}parameter name="(?P<key>[^"]{{1,256}}+)"(?:\s++string="(?P<type>true|false)")?+>',
        f"</{prefix}parameter>",
        f"</{prefix}invoke>",
    )


INVOKE_TAGS = _invoke_tags("")
DSML_TAGS = _invoke_tags("｜DSML｜")
ATEM_TAGS = _invoke_tags("atem:")
PARAM_TAGS = Tags(
    r'(?P<name>[^"<>]{1,256}+)"\s*+>',
    r'<param\s++name="(?P<key>[^"]{1,256}+)"\s*+>',
    "</param>",
    "</function>",
    opening=r'<function\s++name="',
    unwrap=without_cdata,
)
KIMI_TAGS = Tags(
    r'<\|open\|>call tool="(?P<name>[^"]{1,256}+)"[^<]{0,64}+<\|sep\|>',
    r'<\|open\|>(?:argument key="(?P<key>[^"]{1,256}+)"(?: type="(?P<type>\w{1,16}+)")?+|json[^<]{0,64}+)<\|sep\|>',
    r"<\|close\|>(?:argument|json)<\|sep\|>",
    r"<\|close\|>call<\|sep\|>",
)

read_function_tags = FUNCTION_TAGS.reader()
read_keyed_tags = KEYED_TAGS.reader()
read_invoke_tags = INVOKE_TAGS.reader()
read_kimi_tags = KIMI_TAGS.reader()
