"""A SentencePiece model file, opened and bounded. Knows pieces by their place in the file; knows no family's ids."""

from functools import cached_property
from pathlib import Path

import sentencepiece

from engine.checkpoint.folder import open_file
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

_MAX_FILE_BYTES = 64 << 20
_MIN_PIECES = 4  # three special pieces and something to write with
# The file is a protobuf message; a field that is appended to one goes over what it held before.
_NO_SPACE_BEFORE = b"\x1a\x02\x18\x00"  # normalizer_spec { add_dummy_prefix: false }


class PieceFile:
    """The pieces of a `.model` or `.spm` file and the library that finds them in a text.

    pieces: as the file spells them; unknown: the place of the piece for what it cannot spell
    control: places of pieces that no text gives; spaced: it puts a space before every text
    Raises CheckpointNotFound and CheckpointCorrupt.
    """

    def __init__(self, file: Path) -> None:
        self.name = file.name
        with open_file(file) as opened:
            self._data = opened.read(_MAX_FILE_BYTES + 1)
        if len(self._data) > _MAX_FILE_BYTES:
            raise CheckpointUnsupported(f"size of {file.name}", f"more than {_MAX_FILE_BYTES} bytes", "smaller files")
        self._library = self._load(self._data)
        size = self._library.get_piece_size()
        if size < _MIN_PIECES:
            raise CheckpointCorrupt(file.name, f"it has {size} pieces")
        try:
            self.pieces = [str(self._library.id_to_piece(place)) for place in range(size)]
            self.spaced = "".join(self._library.encode("a", out_type=str)).startswith("\u2581")
        except UnicodeDecodeError:
            raise CheckpointCorrupt(file.name, "one of its pieces is not UTF-8") from None
        self.control = [place for place in range(size) if self._library.is_control(place)]
        self.unknown: int = self._library.unk_id()

    def find(self, text: str, *, spaced: bool = True) -> list[int]:
        """Places of the pieces that make up a text. spaced: with the space before it that the file asks for."""
        library = self._library if spaced or not self.spaced else self._unspaced
        places: list[int] = library.encode(text)
        return places

    def place(self, piece: str) -> int | None:
        """The file's index of this piece."""
        place: int = self._library.piece_to_id(piece)
        return place if self.pieces[place] == piece else None

    def _load(self, data: bytes) -> sentencepiece.SentencePieceProcessor:
        if not data:
            raise CheckpointCorrupt(self.name, "it is empty")
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=data)
        except (RuntimeError, UnicodeDecodeError):  # the second where it quotes its own bytes
            raise CheckpointCorrupt(self.name, "it is not a SentencePiece model") from None

    @cached_property
    def _unspaced(self) -> sentencepiece.SentencePieceProcessor:
        return self._load(self._data + _NO_SPACE_BEFORE)
