"""The parts of a reply, as parsers give them out. Plain values."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Field = Literal["reasoning", "content", "call", "arguments"]


class Piece(NamedTuple):
    """A piece of one field.

    field: "call" begins a tool call, and its text is the function's name; "arguments" adds to the last one
    start: of content, where in the reply this text stands, in characters; content is always the reply's own text
    """

    field: Field
    text: str
    start: int = 0


class Call(NamedTuple):
    """One whole tool call; arguments are JSON as text, as the model wrote it where it wrote JSON."""

    name: str
    arguments: str


def pieces_of(calls: Iterable[Call]) -> list[Piece]:
    """Whole calls as pieces."""
    return [piece for call in calls for piece in (Piece("call", call.name), Piece("arguments", call.arguments))]


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces with neighbours of one field put together, which is how a whole reply is told from its pieces."""
    whole: list[Piece] = []
    for piece in pieces:
        if whole and whole[-1].field == piece.field != "call":
            whole[-1] = whole[-1]._replace(text=whole[-1].text + piece.text)
        elif piece.text or piece.field == "call":
            whole.append(piece)
    return whole
