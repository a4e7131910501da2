"""A vocabulary run by Hugging Face's `tokenizers`: byte-level and other BPE, WordPiece, Unigram."""

import re
from collections.abc import Mapping
from functools import lru_cache

from tokenizers import Tokenizer as Subwords
from tokenizers import decoders

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_METASPACE = "\u2581"


class SubwordVocabulary:
    """Wraps a `tokenizers.Tokenizer`. How tokens become text is read off its decoder."""

    def __init__(self, subwords: Subwords) -> None:
        self._subwords = subwords
        added = subwords.get_added_tokens_decoder()
        self.added: Mapping[int, str] = {token_id: token.content for token_id, token in added.items()}
        self._words = {token_id for token_id, token in added.items() if not token.special}
        self.size = max(subwords.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        decoder = "" if subwords.decoder is None else repr(subwords.decoder)
        self._byte_level = isinstance(subwords.decoder, decoders.ByteLevel) or "ByteLevel(" in decoder
        self.metaspace = _METASPACE in decoder
        self.joins_bytes = self._byte_level or self.metaspace

    def encode(self, text: str, *, add_special_tokens: bool, parse_special: bool) -> list[int]:
        """Token ids of a text. Not safe to call from two threads at once."""
        self._subwords.encode_special_tokens = not parse_special
        # Only the batch call lets other threads run meanwhile.
        return self._subwords.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids

    def encode_pair(self, first: str, second: str, *, parse_special: bool) -> tuple[list[int], list[int]]:
        """Token ids of two texts with the special tokens around them, and their types."""
        self._subwords.encode_special_tokens = not parse_special
        encoding = self._subwords.encode_batch_fast([(first, second)])[0]
        return encoding.ids, encoding.type_ids

    def decode(self, ids: list[int]) -> str:
        """Text of all these tokens, as the library joins them."""
        known = [token_id for token_id in ids if 0 <= token_id < self.size]
        return self._subwords.decode(known, skip_special_tokens=False)

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it."""
        return self._subwords.id_to_token(token_id) if 0 <= token_id < self.size else None

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        return self._subwords.token_to_id(token)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text in which it is not the first."""
        if token_id in self.added and not (self.metaspace and token_id in self._words):
            return self.added[token_id].encode()
        token = self.token(token_id) or ""
        if self._byte_level:
            return _from_byte_level(token)
        return piece_bytes(token) if self.metaspace else token.encode()


def piece_bytes(piece: str) -> bytes:
    """The bytes of a SentencePiece piece: `<0xE2>` is a byte, the low block a space."""
    byte = _BYTE_TOKEN.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_METASPACE, " ").encode()


def _from_byte_level(token: str) -> bytes:
    table = _byte_of_character()
    # Characters outside the table stand for themselves, in tokens that were added later.
    return b"".join(table[each] if each in table else each.encode() for each in token)


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, bytes]:
    """Byte-level BPE spells printable bytes as themselves, and the others as characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): bytes([byte]) for byte in printable}
    return spelled | {chr(256 + place): bytes([byte]) for place, byte in enumerate(others)}
