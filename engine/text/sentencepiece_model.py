"""A vocabulary run by the `sentencepiece` library, from a `.model` file."""

import re
from pathlib import Path

import sentencepiece

from engine.errors import CheckpointCorrupt
from engine.text.subword import piece_bytes

_MAX_FILE_BYTES = 64 << 20


class SentencePieceVocabulary:
    """A SentencePiece model, with special tokens found in the text before the library sees it.

    bos_id, eos_id: put around a text where the model expects them; None leaves them out
    added: further tokens that the model file does not have
    """

    joins_bytes = True
    metaspace = True

    def __init__(self, file: Path, *, bos_id: int | None, eos_id: int | None, added: dict[int, str]) -> None:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise CheckpointCorrupt(file.name, f"it is larger than {_MAX_FILE_BYTES} bytes")
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=file.read_bytes())
        except RuntimeError:
            raise CheckpointCorrupt(file.name, "it is not a SentencePiece model") from None
        self._bos_id, self._eos_id = bos_id, eos_id
        own = self._pieces.get_piece_size()
        self.control_ids = frozenset(each for each in range(own) if self._pieces.is_control(each))
        self._added = {token_id: text for token_id, text in added.items() if token_id >= own}
        self.size = max([own - 1, *self._added]) + 1
        self._ids = {text: token_id for token_id, text in self._added.items()}
        self._ids |= {self._pieces.id_to_piece(each): each for each in self.control_ids}
        spelled = sorted(filter(None, self._ids), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, spelled))})") if spelled else None

    def encode(self, text: str, *, add_special_tokens: bool, parse_special: bool) -> list[int]:
        """Token ids of a text."""
        parts = self._special.split(text) if parse_special and self._special else [text]
        ids: list[int] = []
        for part in filter(None, parts):
            known = self._ids.get(part) if parse_special else None
            ids += self._pieces.encode(part) if known is None else [known]
        if not add_special_tokens:
            return ids
        before = [] if self._bos_id is None else [self._bos_id]
        return before + ids + ([] if self._eos_id is None else [self._eos_id])

    def decode(self, ids: list[int]) -> str:
        """Text of all these tokens."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace").removeprefix(" ")

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it."""
        if 0 <= token_id < self._pieces.get_piece_size():
            return str(self._pieces.id_to_piece(token_id))
        return self._added.get(token_id)

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        if token in self._ids:
            return self._ids[token]
        token_id: int = self._pieces.piece_to_id(token)
        return None if token_id == self._pieces.unk_id() and token != self.token(token_id) else token_id

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to a text in which it is not the first."""
        token = self.token(token_id) or ""
        return token.encode() if token_id in self._added or token_id in self.control_ids else piece_bytes(token)
