"""The ids that a family gives to the pieces of its SentencePiece file, and the tokens it adds. Knows no library."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import CheckpointCorrupt, CheckpointUnsupported
from engine.text.frame import Frame
from engine.text.languages import MBART, MBART_50
from engine.text.piece_file import PieceFile
from engine.text.settings import AddedToken, TokenizerSettings

_MAX_EXTRA_IDS = 4096
_Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PieceLayout:
    """The numbering of a family's tokens.

    ids: the token of every piece, by its place in the file
    tokens: how every token is spelled, by id; None where each piece is a token
    added: tokens that are found in the text before the file's pieces, by id
    unknown_id: stands for what the file cannot spell
    eos: the end token's spelling; None leaves it to the checkpoint's settings
    continues: a text after a special token continues it, and gets no space before it
    """

    ids: Sequence[int]
    added: Mapping[int, AddedToken]
    unknown_id: int
    frame: Frame
    tokens: Mapping[int, str] | None = None
    eos: str | None = "</s>"
    continues: bool = False


def find_layout(file: PieceFile, settings: TokenizerSettings, config: _Config) -> PieceLayout:
    """The family's layout, by tokenizer_class, else by model_type; ids as in the file for all others."""
    family = settings.kind if settings.kind in _LAYOUTS else _OF_MODEL_TYPE.get(str(config.get("model_type")), "")
    if family == "MBart" and config.get("vocab_size") == len(file.pieces) + len(MBART_50) + 2:
        family = "MBart50"
    return _LAYOUTS.get(family, _as_in_the_file)(file, settings, config)


def _as_in_the_file(file: PieceFile, settings: TokenizerSettings, config: _Config) -> PieceLayout:
    before = _known(file, settings, config.get("bos_token_id")) if settings.flag("add_bos_token", default=True) else ()
    after = _known(file, settings, config.get("eos_token_id")) if settings.flag("add_eos_token", default=False) else ()
    return PieceLayout(
        range(len(file.pieces)),
        _own_special(file),
        file.unknown,
        Frame(before, (*after, *before), after),
        eos=None,
        continues=settings.flag("legacy", default=True) is False,
    )


def _known(file: PieceFile, settings: TokenizerSettings, token_id: Any) -> tuple[int, ...]:
    """The id, where the file or the settings have a token under it."""
    known = type(token_id) is int and (0 <= token_id < len(file.pieces) or token_id in settings.added)
    return (token_id,) if known else ()


def _t5(file: PieceFile, settings: TokenizerSettings, config: _Config) -> PieceLayout:
    """The file's pieces, then the sentinels `<extra_id_99>` to `<extra_id_0>`, and an end after every text."""
    count, size = settings.count("extra_ids", 100, most=_MAX_EXTRA_IDS), len(file.pieces)
    room = config.get("vocab_size")
    last = min(size + count, room) if type(room) is int else size + count
    sentinels = {token_id: AddedToken(f"<extra_id_{size + count - 1 - token_id}>") for token_id in range(size, last)}
    end = file.place("</s>")
    if end is None:
        raise CheckpointCorrupt(file.name, "it has no piece </s>")
    return PieceLayout(range(size), _own_special(file) | sentinels, file.unknown, Frame((), (end,), (end,)))


def _pegasus(file: PieceFile, settings: TokenizerSettings, config: _Config) -> PieceLayout:
    """Later by `offset`, which makes room for the masks and unknown words of its training."""
    _expect(file, ("<pad>", "</s>", "<unk>"))
    offset = settings.count("offset", 103, least=2, most=_MAX_EXTRA_IDS)
    names = ["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{number}>" for number in range(2, offset)), "<unk>"]
    ids = [0, 1, *(place + offset for place in range(2, len(file.pieces)))]
    return PieceLayout(ids, _named(names), 2 + offset, Frame((), (), (1,)))


def _xlm_roberta(file: PieceFile, settings: TokenizerSettings, config: _Config) -> PieceLayout:
    return _fairseq(file, (), Frame((0,), (2, 2), (2,)))


def _mbart(file: PieceFile, settings: TokenizerSettings, config: _Config) -> PieceLayout:
    """The source's language follows the text."""
    return _fairseq(file, MBART, Frame((), (), (2, _language(file, settings, MBART))))


def _mbart_50(file: PieceFile, settings: TokenizerSettings, config: _Config) -> PieceLayout:
    """The source's language precedes the text."""
    return _fairseq(file, MBART_50, Frame((_language(file, settings, MBART_50),), (), (2,)))


def _fairseq(file: PieceFile, languages: Sequence[str], frame: Frame) -> PieceLayout:
    """The file's three special pieces in another order, all others one later, then languages and a mask."""
    _expect(file, ("<unk>", "<s>", "</s>"))
    size = len(file.pieces)
    ids = [3, 0, 2, *(place + 1 for place in range(3, size))]
    added = _named(("<s>", "<pad>", "</s>", "<unk>")) | _named(languages, size + 1)
    return PieceLayout(ids, added | {size + 1 + len(languages): AddedToken("<mask>", lstrip=True)}, 3, frame)


def _language(file: PieceFile, settings: TokenizerSettings, languages: Sequence[str]) -> int:
    return len(file.pieces) + 1 + languages.index(settings.word("src_lang", "en_XX", languages))


def _own_special(file: PieceFile) -> dict[int, AddedToken]:
    return {place: AddedToken(file.pieces[place]) for place in (*file.control, file.unknown)}


def _named(names: Sequence[str], start: int = 0) -> dict[int, AddedToken]:
    return {token_id: AddedToken(name) for token_id, name in enumerate(names, start)}


def _expect(file: PieceFile, first: Sequence[str]) -> None:
    if file.pieces[:3] != list(first):
        raise CheckpointUnsupported(f"first pieces of {file.name}", ", ".join(file.pieces[:3])[:80], ", ".join(first))


_LAYOUTS: dict[str, Callable[[PieceFile, TokenizerSettings, _Config], PieceLayout]] = {
    "T5": _t5,
    "MT5": _t5,
    "Pegasus": _pegasus,
    "XLMRoberta": _xlm_roberta,
    "MBart": _mbart,
    "MBart50": _mbart_50,
}
_OF_MODEL_TYPE = {"t5": "T5", "mt5": "T5", "pegasus": "Pegasus", "xlm-roberta": "XLMRoberta", "mbart": "MBart"}
