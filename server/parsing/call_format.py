"""One way to write tool calls: its markers, and how what stands between them is read. Plain values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from server.parsing import call_shapes
from server.parsing.argument_types import Schemas
from server.parsing.call_shapes import CallShape
from server.parsing.json_calls import OBJECT_HEAD, OBJECT_TAIL, read_json_calls
from server.parsing.piece import Call

_JSON_BEGINS = re.compile(r"\s*+[\[{`]")


class Reader(Protocol):
    """Reads all calls of a text; None when it holds anything else.

    is_whole: nothing is missing at the end of the text; else a reader may forgive it
    """

    def __call__(self, body: str, schemas: Schemas, *, is_whole: bool = False) -> list[Call] | None:
        """The calls."""
        ...


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How tool calls are written.

    signs: each of them, or one of alternatives in a tuple, is in the template or a token of the vocabulary
    opens, closes: around one or several calls; without closes a stretch goes on until the next one or the end. What one
        opening marker opens may hold the ones behind it in the list
    own_closes: closing markers of single opening ones, besides the closes
    inner: further control tokens within
    silent: markers of the content that are no part of it
    heads: what stands before arguments that are JSON, with the group `name`; these are passed on as they come. Without
        heads, calls are kept until they can be read as a whole
    tail: what may stand behind the last of them
    begins: how calls begin that are kept
    readers: for calls that have to be read as a whole, in this order
    bare: calls may stand without a marker at the beginning of the content, for known functions
    lead: the end of a prompt, where the reply goes on with what it begins
    short_ids: the template takes call ids of 9 letters and digits only
    shapes: how a model writes calls that has to; one of those that it has the tokens for
    """

    name: str
    signs: tuple[str | tuple[str, ...], ...]
    opens: tuple[str, ...]
    closes: tuple[str, ...] = ()
    own_closes: Mapping[str, str] = field(default_factory=dict)
    inner: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    heads: tuple[re.Pattern[str], ...] = (OBJECT_HEAD,)
    tail: re.Pattern[str] = OBJECT_TAIL
    begins: re.Pattern[str] = _JSON_BEGINS
    readers: tuple[Reader, ...] = (read_json_calls,)
    bare: bool = False
    lead: str = ""
    short_ids: bool = False
    shapes: tuple[CallShape, ...] = (call_shapes.TAGGED_OBJECT,)

    def ends_of(self, marker: str) -> tuple[str, ...]:
        """The closing markers of calls that this marker opened."""
        return (*self.closes, self.own_closes[marker]) if marker in self.own_closes else self.closes
