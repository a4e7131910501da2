"""byT5's vocabulary: every byte of a text is a token (Xue et al. 2021, arXiv:2105.13626). Needs no file."""

from collections.abc import Mapping

from engine.text.frame import Frame
from engine.text.settings import AddedToken, TokenizerSettings
from engine.text.special_text import SpecialText

_SPECIAL = ("<pad>", "</s>", "<unk>")
_OFFSET = len(_SPECIAL)
_MAX_EXTRA_IDS = 4096


class ByteVocabulary:
    """Byte b has the id b + 3; after the bytes come the sentinels `<extra_id_0>` and on."""

    joins_bytes = True

    def __init__(self, settings: TokenizerSettings) -> None:
        count = settings.count("extra_ids", 125, most=_MAX_EXTRA_IDS)
        added = {token_id: AddedToken(text, lstrip=True, rstrip=True) for token_id, text in enumerate(_SPECIAL)}
        first = _OFFSET + 256
        added |= {first + number: AddedToken(f"<extra_id_{number}>") for number in range(count)}
        self._added = added | settings.added
        self._ids = {token.text: token_id for token_id, token in self._added.items()}
        self._special = SpecialText(self._added)
        self._frame = Frame((), (1,), (1,))
        self.size = max(self._added) + 1
        self.added: Mapping[int, str] = {token_id: token.text for token_id, token in self._added.items()}
        self.special_ids = frozenset(token_id for token_id, token in self._added.items() if token.special)

    def encode(self, text: str, *, add_special_tokens: bool, parse_special: bool) -> list[int]:
        """Token ids of a text."""
        ids = self._find(text, parse_special=parse_special)
        return self._frame.around(ids) if add_special_tokens else ids

    def encode_pair(self, first: str, second: str, *, parse_special: bool) -> tuple[list[int], list[int]]:
        """Ids of two texts with the special tokens around them, and their types, which are all 0."""
        found = [self._find(text, parse_special=parse_special) for text in (first, second)]
        ids = self._frame.around_pair(*found)
        return ids, [0] * len(ids)

    def decode(self, ids: list[int]) -> str:
        """Text of all these tokens."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token(self, token_id: int) -> str | None:
        """The token's spelling; a byte is spelled as the character of its number."""
        if token_id in self._added:
            return self._added[token_id].text
        return chr(token_id - _OFFSET) if 0 <= token_id - _OFFSET < 256 else None

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        if token in self._ids:
            return self._ids[token]
        return ord(token) + _OFFSET if len(token) == 1 and ord(token) < 256 else None

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text."""
        if token_id in self._added:
            return self._added[token_id].text.encode()
        return bytes([token_id - _OFFSET]) if 0 <= token_id - _OFFSET < 256 else b""

    def _find(self, text: str, *, parse_special: bool) -> list[int]:
        ids: list[int] = []
        for part in self._special.cut(text, parse_special=parse_special):
            ids += [part] if isinstance(part, int) else [byte + _OFFSET for byte in part.encode()]
        return ids
