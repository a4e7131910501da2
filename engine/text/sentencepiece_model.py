"""A vocabulary whose pieces a SentencePiece file has, under the ids that a family gives them."""

from collections.abc import Mapping

from engine.errors import CheckpointCorrupt
from engine.text.piece_file import PieceFile
from engine.text.piece_layout import PieceLayout
from engine.text.settings import AddedToken
from engine.text.special_text import SpecialText
from engine.text.subword import piece_bytes


class SentencePieceVocabulary:
    """Pieces of a file, and tokens that are found in the text before it.

    added: what the checkpoint's settings add to the layout, or describe otherwise
    special_ids: the tokens that are left out of a decoded text
    """

    joins_bytes = True

    def __init__(self, file: PieceFile, layout: PieceLayout, added: Mapping[int, AddedToken]) -> None:
        self._file, self._layout = file, layout
        pieces = {token_id: file.pieces[place] for place, token_id in enumerate(layout.ids)}
        own = pieces if layout.tokens is None else layout.tokens
        # A word that the file has itself is left to it: it may spell its spaces in its own way.
        self._added = {
            token_id: token
            for token_id, token in (dict(layout.added) | dict(added)).items()
            if token.special or token_id not in own
        }
        self._tokens = dict(own) | {token_id: token.text for token_id, token in self._added.items()}
        self._ids = {text: token_id for token_id, text in self._tokens.items()}
        self._ids |= {token.text: token_id for token_id, token in self._added.items()}
        if len({token.text for token in self._added.values()}) < len(self._added):
            raise CheckpointCorrupt(file.name, "one of the tokens added to it has two ids")
        self.size = max(self._tokens) + 1
        self.added: Mapping[int, str] = {token_id: token.text for token_id, token in self._added.items()}
        self.special_ids = frozenset(token_id for token_id, token in self._added.items() if token.special)
        self._forbidden = self.special_ids - {layout.unknown_id}
        self._special = SpecialText(self._added)

    def encode(self, text: str, *, add_special_tokens: bool, parse_special: bool) -> list[int]:
        """Token ids of a text."""
        ids = self._find(text, parse_special=parse_special)
        return self._layout.frame.around(ids) if add_special_tokens else ids

    def encode_pair(self, first: str, second: str, *, parse_special: bool) -> tuple[list[int], list[int]]:
        """Ids of two texts with the special tokens around them, and their types, which are all 0."""
        found = [self._find(text, parse_special=parse_special) for text in (first, second)]
        ids = self._layout.frame.around_pair(*found)
        return ids, [0] * len(ids)

    def decode(self, ids: list[int]) -> str:
        """Text of all these tokens."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it."""
        return self._tokens.get(token_id)

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        return self._ids.get(token)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text in which it is not the first."""
        token = self._tokens.get(token_id, "")
        return token.encode() if token_id in self._added else piece_bytes(token)

    def _find(self, text: str, *, parse_special: bool) -> list[int]:
        ids: list[int] = []
        for part in self._special.cut(text, parse_special=parse_special):
            if isinstance(part, int):
                ids.append(part)
                continue
            spaced = not (ids and self._layout.continues)
            found = self._pieces(part, spaced=spaced)
            # A file may have special tokens among its words, and would find them in any text.
            if not parse_special and not self._forbidden.isdisjoint(found):
                first, *others = self._special.break_up(part)
                found = self._pieces(first, spaced=spaced)
                found += [each for other in others for each in self._pieces(other, spaced=False)]
            ids += found
        return ids

    def _pieces(self, text: str, *, spaced: bool) -> list[int]:
        return [self._layout.ids[place] for place in self._file.find(text, spaced=spaced)]
