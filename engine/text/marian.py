"""Marian's tokenizer: SentencePiece finds the pieces, and a vocabulary file of both languages gives their ids."""

from engine.checkpoint.folder import ModelFolder
from engine.errors import CheckpointCorrupt, CheckpointUnsupported
from engine.text.frame import Frame
from engine.text.piece_file import PieceFile
from engine.text.piece_layout import PieceLayout
from engine.text.settings import SENTENCEPIECE_ROLES, AddedToken, TokenizerSettings
from engine.text.vocabulary_file import read_vocabulary

SOURCE, TARGET, _VOCABULARY = "source.spm", "target.spm", "vocab.json"


def read_marian(folder: ModelFolder, settings: TokenizerSettings) -> tuple[PieceFile, PieceLayout]:
    """The source's pieces and their ids; `>>fra<<` at the beginning of a text names the language to write.

    Punctuation is not rewritten as Moses's scripts do before training.
    Raises CheckpointNotFound, CheckpointCorrupt and CheckpointUnsupported.
    """
    if settings.flag("separate_vocabs", default=False):
        raise CheckpointUnsupported("separate_vocabs", True, "false")
    PieceFile(folder.file(TARGET))  # read for its faults alone: the vocabulary file spells the target's pieces
    file, vocabulary = PieceFile(folder.file(SOURCE)), read_vocabulary(folder, _VOCABULARY)
    roles = settings.named(SENTENCEPIECE_ROLES)
    special = {role: text for role, text in roles.items() if text is not None and text in vocabulary}
    for role in ("unk_token", "eos_token"):
        if role not in special:
            raise CheckpointCorrupt(_VOCABULARY, f"it has no {role.replace('_', ' ')}")
    unknown_id, end_id = vocabulary[special["unk_token"]], vocabulary[special["eos_token"]]
    added = {vocabulary[text]: AddedToken(text) for text in special.values()}
    languages = [token for token in vocabulary if token.startswith(">>") and token.endswith("<<")]
    return file, PieceLayout(
        [vocabulary.get(piece, unknown_id) for piece in file.pieces],
        added | {vocabulary[token]: AddedToken(token, leading=True) for token in languages},
        unknown_id,
        Frame((), (), (end_id,)),
        tokens={token_id: token for token, token_id in vocabulary.items()},
        eos=special["eos_token"],
    )
