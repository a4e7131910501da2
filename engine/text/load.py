"""Find a checkpoint's tokenizer and chat template and build them. Knows which files a family has."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from tokenizers import Tokenizer as Subwords
from tokenizers import processors

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.folder import ModelFolder
from engine.errors import CheckpointNotFound
from engine.text import byte_pairs, marian, word_pieces
from engine.text.added_tokens import FILE as _OWN_FILE
from engine.text.added_tokens import mark_special, read_subwords, unnumbered_within
from engine.text.chat import Template
from engine.text.chat_template import ChatTemplate
from engine.text.gguf_vocabulary import around_text, build_from_gguf, role_id
from engine.text.piece_file import PieceFile
from engine.text.piece_layout import PieceLayout, find_layout
from engine.text.raw_bytes import ByteVocabulary
from engine.text.sentencepiece_model import SentencePieceVocabulary
from engine.text.settings import SENTENCEPIECE_ROLES, Roles, TokenizerSettings
from engine.text.subword import SubwordVocabulary
from engine.text.template_files import read_templates
from engine.text.tokenizer import SpecialTokens, Tokenizer, Vocabulary
from engine.text.vocabulary_file import read_text

_MAX_FILE_BYTES = 256 << 20
_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# The first of them that a folder has is read, with what belongs to it.
_FILES = (_OWN_FILE, marian.SOURCE, *_SENTENCEPIECE_FILES, word_pieces.VOCABULARY, byte_pairs.MERGES)
# Ends of a turn, where a chat template writes them; configurations often name only the end of a text.
_TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|end|>",
    "<|END_OF_TURN_TOKEN|>",
)


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The checkpoint's tokenizer.

    Raises CheckpointNotFound when it has none, CheckpointCorrupt and CheckpointUnsupported when it cannot be read.
    """
    if checkpoint.gguf_metadata is not None:
        return _from_gguf(checkpoint, checkpoint.gguf_metadata)
    folder = ModelFolder(checkpoint.path)
    settings = TokenizerSettings(folder, checkpoint.config)
    if settings.kind == "ByT5":
        return _from_bytes(checkpoint, settings)
    file = next(filter(folder.has, _FILES), None)
    if file is None:
        raise CheckpointNotFound(checkpoint.path.name, f"it has no tokenizer (one of {', '.join(_FILES)})")
    if file == marian.SOURCE:
        return _from_pieces(checkpoint, *marian.read_marian(folder, settings), settings)
    if file in _SENTENCEPIECE_FILES:
        pieces = PieceFile(folder.file(file))
        return _from_pieces(checkpoint, pieces, find_layout(pieces, settings, checkpoint.config), settings)
    return _from_subwords(checkpoint, *_subwords(file, folder, settings, checkpoint.config), settings)


def load_chat_template(
    checkpoint: Checkpoint, tokenizer: Tokenizer, make: Callable[..., Template] = ChatTemplate
) -> Template | None:
    """The checkpoint's chat template; None for a model that has none.

    make: is given what ChatTemplate is made of
    Raises TemplateFailed as `make` does.
    """
    sources = read_templates(checkpoint)
    if "default" not in sources:
        return None
    named = {
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unk_token,
    }
    special = {name: text for name, text in named.items() if text is not None}
    return make(sources["default"], special, tool_source=sources.get("tool_use"))


def gguf_subwords(metadata: Mapping[str, Any], file_name: str) -> Subwords:
    """The whole tokenizer of a GGUF, with the special tokens that it puts around a text. Raises as load_tokenizer."""
    subwords = build_from_gguf(metadata, file_name)
    subwords.post_processor = _surround(subwords, *around_text(metadata))
    return subwords


def _is_scored(metadata: Mapping[str, Any]) -> bool:
    return metadata.get("tokenizer.ggml.model") == "llama"


def _from_gguf(checkpoint: Checkpoint, metadata: Mapping[str, Any]) -> Tokenizer:
    subwords = gguf_subwords(metadata, checkpoint.path.name)
    vocabulary = SubwordVocabulary(subwords)
    ids = {key: role_id(metadata, name) for key, name in _GGUF_ROLES}
    texts = {key: None if token_id is None else vocabulary.token(token_id) for key, token_id in ids.items()}
    ends = _end_ids(checkpoint, vocabulary, ids["eos_token"])
    special = _special(_special_ids(subwords), ids["bos_token"], ends, texts)
    return Tokenizer(
        vocabulary,
        special,
        leading_space=_is_scored(metadata) and metadata.get("tokenizer.ggml.add_space_prefix", True),
    )


_GGUF_ROLES = (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown"))


def _subwords(
    file: str, folder: ModelFolder, settings: TokenizerSettings, config: Mapping[str, Any]
) -> tuple[Subwords, Roles]:
    if file == word_pieces.VOCABULARY:
        return word_pieces.build_word_pieces(folder, settings, config)
    if file == byte_pairs.MERGES:
        return byte_pairs.build_byte_pairs(folder, settings, config)
    return read_subwords(read_text(folder, _OWN_FILE, _MAX_FILE_BYTES), settings), settings.named()


def _from_subwords(checkpoint: Checkpoint, subwords: Subwords, roles: Roles, settings: TokenizerSettings) -> Tokenizer:
    mark_special(subwords, settings, roles, _num_rows(checkpoint.config))
    vocabulary = SubwordVocabulary(subwords)
    find = partial(_find, vocabulary)
    ends = _end_ids(checkpoint, vocabulary, find(roles["eos_token"]))
    special = _special(_special_ids(subwords), find(roles["bos_token"]), ends, roles)
    normalizer = "" if subwords.normalizer is None else repr(subwords.normalizer)
    pre_tokenizer = "" if subwords.pre_tokenizer is None else repr(subwords.pre_tokenizer)
    metaspace = "Metaspace(" in pre_tokenizer and "prepend_scheme=never" not in pre_tokenizer
    prefixed = "Prepend(" in normalizer or metaspace
    return Tokenizer(vocabulary, special, leading_space=vocabulary.metaspace and prefixed)


def _from_pieces(
    checkpoint: Checkpoint, file: PieceFile, layout: PieceLayout, settings: TokenizerSettings
) -> Tokenizer:
    roles = settings.named() if layout.eos is None else settings.named({**SENTENCEPIECE_ROLES, "eos_token": layout.eos})
    vocabulary = _with_special(file, layout, settings, _num_rows(checkpoint.config))
    find = partial(_find, vocabulary)
    ends = _end_ids(checkpoint, vocabulary, find(roles["eos_token"]))
    bos_id = checkpoint.config.get("bos_token_id")
    bos_id = bos_id if type(bos_id) is int and 0 <= bos_id < vocabulary.size else None
    texts = dict(roles)
    texts["bos_token"] = roles["bos_token"] or (None if bos_id is None else vocabulary.token(bos_id))
    texts["eos_token"] = roles["eos_token"] or (vocabulary.token(ends[0]) if ends else None)
    named = {each for each in map(find, texts.values()) if each is not None}
    special = _special(vocabulary.special_ids | named, bos_id, ends, texts)
    return Tokenizer(vocabulary, special, leading_space=file.spaced)


def _with_special(
    file: PieceFile, layout: PieceLayout, settings: TokenizerSettings, num_rows: int | None
) -> SentencePieceVocabulary:
    """The vocabulary, with the special tokens that the settings name without an id."""
    vocabulary = SentencePieceVocabulary(file, layout, settings.added)
    texts = settings.special_texts()
    known = {text: token_id for text in texts if (token_id := vocabulary.token_id(text)) is not None}
    added = {each: settings.described(text) for text, each in known.items() if each not in vocabulary.special_ids}
    behind = unnumbered_within(texts, known | {"": vocabulary.size - 1}, num_rows)
    added |= {vocabulary.size + number: settings.described(text) for number, text in enumerate(behind)}
    return SentencePieceVocabulary(file, layout, settings.added | added) if added else vocabulary


def _num_rows(config: Mapping[str, Any]) -> int | None:
    size = config.get("vocab_size")
    return size if type(size) is int else None


def _from_bytes(checkpoint: Checkpoint, settings: TokenizerSettings) -> Tokenizer:
    roles = settings.named(SENTENCEPIECE_ROLES)
    vocabulary = ByteVocabulary(settings)
    ends = _end_ids(checkpoint, vocabulary, vocabulary.token_id("</s>"))
    return Tokenizer(vocabulary, _special(vocabulary.special_ids, None, ends, roles))


def _special(ids: Iterable[int], bos_id: int | None, eos_ids: tuple[int, ...], texts: Roles) -> SpecialTokens:
    return SpecialTokens(
        frozenset(ids) | frozenset(eos_ids),
        bos_id,
        eos_ids,
        texts.get("bos_token"),
        texts.get("eos_token"),
        texts.get("pad_token"),
        texts.get("unk_token"),
    )


def _special_ids(subwords: Subwords) -> list[int]:
    return [token_id for token_id, token in subwords.get_added_tokens_decoder().items() if token.special]


def _end_ids(checkpoint: Checkpoint, vocabulary: Vocabulary, own: int | None) -> tuple[int, ...]:
    """All end tokens: those of generation_config.json, of config.json, the tokenizer's own, and ends of a turn."""
    ids: list[Any] = []
    for source in (checkpoint.generation_config, checkpoint.config):
        value = source.get("eos_token_id")
        ids += value if isinstance(value, list) else [value]
    candidates = [*ids, own, *_turn_ends(vocabulary, read_templates(checkpoint).get("default", ""))]
    size = max(vocabulary.size, _num_rows(checkpoint.config) or 0)
    return tuple(dict.fromkeys(each for each in candidates if type(each) is int and 0 <= each < size))


def _turn_ends(vocabulary: Vocabulary, template: str) -> list[int]:
    harmony = vocabulary.token_id("<|channel|>") is not None  # there <|end|> ends a message, not the answer
    found = [text for text in _TURN_ENDS if text in template and not (harmony and text == "<|end|>")]
    return [each for each in map(vocabulary.token_id, found) if each is not None]


def _find(vocabulary: Vocabulary, token: str | None) -> int | None:
    return None if token is None else vocabulary.token_id(token)


def _surround(subwords: Subwords, bos_id: int | None, eos_id: int | None) -> Any:
    """A post-processor that puts the beginning and the end around a text; None leaves one out."""
    named = {"begin": bos_id, "end": eos_id}
    tokens = [
        {"id": name, "ids": [token_id], "tokens": [subwords.id_to_token(token_id)]}
        for name, token_id in named.items()
        if token_id is not None
    ]
    if not tokens:
        return subwords.post_processor
    single = [part for part in ("begin", "$A", "end") if part == "$A" or named[part] is not None]
    return processors.TemplateProcessing(single=single, special_tokens=tokens)
