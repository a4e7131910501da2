"""Find a checkpoint's tokenizer and chat template and build them. Knows file names and metadata keys."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Subwords
from tokenizers import processors

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.folder import ModelFolder, open_file
from engine.errors import CheckpointCorrupt, CheckpointNotFound
from engine.text.chat_template import ChatTemplate
from engine.text.gguf_vocabulary import build_from_gguf
from engine.text.sentencepiece_model import SentencePieceVocabulary
from engine.text.subword import SubwordVocabulary
from engine.text.tokenizer import SpecialTokens, Tokenizer

_MAX_FILE_BYTES = 256 << 20
_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
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
_SPECIAL_KEYS = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The checkpoint's tokenizer.

    Raises CheckpointNotFound when it has none, CheckpointCorrupt and CheckpointUnsupported when it cannot be read.
    """
    if checkpoint.gguf_metadata is not None:
        return _from_gguf(checkpoint, checkpoint.gguf_metadata)
    folder = ModelFolder(checkpoint.path)
    settings = _tokenizer_settings(folder)
    if folder.has("tokenizer.json"):
        return _from_subwords(checkpoint, _read_subwords(folder, "tokenizer.json"), settings)
    for name in _SENTENCEPIECE_FILES:
        if folder.has(name):
            return _from_sentencepiece(checkpoint, folder.file(name), settings)
    files = ", ".join(("tokenizer.json", *_SENTENCEPIECE_FILES))
    raise CheckpointNotFound(checkpoint.path.name, f"it has no tokenizer (one of {files})")


def load_chat_template(checkpoint: Checkpoint, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The checkpoint's chat template; None for a model that has none. Raises TemplateFailed on a syntax error."""
    sources = _template_sources(checkpoint)
    if "default" not in sources:
        return None
    named = {
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unk_token,
    }
    special = {name: text for name, text in named.items() if text is not None}
    return ChatTemplate(sources["default"], special, tool_source=sources.get("tool_use"))


def _from_gguf(checkpoint: Checkpoint, metadata: Mapping[str, Any]) -> Tokenizer:
    subwords = build_from_gguf(metadata, checkpoint.path.name)
    bos_id, eos_id = metadata.get("tokenizer.ggml.bos_token_id"), metadata.get("tokenizer.ggml.eos_token_id")
    scored = metadata.get("tokenizer.ggml.model") == "llama"
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", scored)
    add_eos = metadata.get("tokenizer.ggml.add_eos_token", False)
    around = (bos_id if add_bos else None, eos_id if add_eos else None)
    subwords.post_processor = _surround(subwords, *around)
    vocabulary = SubwordVocabulary(subwords)
    texts = {key: vocabulary.token(metadata.get(f"tokenizer.ggml.{name}_token_id", -1)) for key, name in _GGUF_NAMES}
    template = metadata.get("tokenizer.chat_template", "")
    ends = _end_ids(checkpoint, eos_id, _turn_ends(vocabulary, template))
    special = _special(_special_ids(subwords), bos_id, ends, texts)
    return Tokenizer(
        vocabulary, special, leading_space=scored and metadata.get("tokenizer.ggml.add_space_prefix", True)
    )


_GGUF_NAMES = (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown"))


def _from_subwords(checkpoint: Checkpoint, subwords: Subwords, settings: Mapping[str, Any]) -> Tokenizer:
    texts = {key: _token_text(settings.get(key)) for key in _SPECIAL_KEYS}
    subwords.add_special_tokens([text for text in texts.values() if text and subwords.token_to_id(text) is not None])
    vocabulary = SubwordVocabulary(subwords)
    find = partial(_find, vocabulary)
    template = _template_sources(checkpoint).get("default", "")
    ends = _end_ids(checkpoint, find(texts["eos_token"]), _turn_ends(vocabulary, template))
    special = _special(_special_ids(subwords), find(texts["bos_token"]), ends, texts)
    normalizer = "" if subwords.normalizer is None else repr(subwords.normalizer)
    pre_tokenizer = "" if subwords.pre_tokenizer is None else repr(subwords.pre_tokenizer)
    metaspace = "Metaspace(" in pre_tokenizer and "prepend_scheme=never" not in pre_tokenizer
    prefixed = "Prepend(" in normalizer or metaspace
    return Tokenizer(vocabulary, special, leading_space=vocabulary.metaspace and prefixed)


def _from_sentencepiece(checkpoint: Checkpoint, file: Path, settings: Mapping[str, Any]) -> Tokenizer:
    texts = {key: _token_text(settings.get(key)) for key in _SPECIAL_KEYS}
    encoder = checkpoint.config.get("model_type") in ("t5", "mt5", "umt5")
    bos_id, eos_id = checkpoint.config.get("bos_token_id"), checkpoint.config.get("eos_token_id")
    vocabulary = SentencePieceVocabulary(
        file,
        bos_id=bos_id if settings.get("add_bos_token", not encoder) and isinstance(bos_id, int) else None,
        eos_id=eos_id if settings.get("add_eos_token", encoder) and isinstance(eos_id, int) else None,
        added=_added_tokens(settings),
    )
    template = _template_sources(checkpoint).get("default", "")
    ends = _end_ids(checkpoint, _find(vocabulary, texts["eos_token"]), _turn_ends(vocabulary, template))
    texts["bos_token"] = texts["bos_token"] or (vocabulary.token(bos_id) if isinstance(bos_id, int) else None)
    texts["eos_token"] = texts["eos_token"] or (vocabulary.token(ends[0]) if ends else None)
    named = {each for each in map(partial(_find, vocabulary), texts.values()) if each is not None}
    special = _special(vocabulary.control_ids | named, bos_id if isinstance(bos_id, int) else None, ends, texts)
    return Tokenizer(vocabulary, special, leading_space=True)


def _special(
    ids: Iterable[int], bos_id: int | None, eos_ids: tuple[int, ...], texts: Mapping[str, str | None]
) -> SpecialTokens:
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


def _end_ids(checkpoint: Checkpoint, own: int | None, turn_ends: Iterable[int]) -> tuple[int, ...]:
    """All end tokens: those of generation_config.json, of config.json, the tokenizer's own, and ends of a turn."""
    ids: list[Any] = []
    for source in (checkpoint.generation_config, checkpoint.config):
        value = source.get("eos_token_id")
        ids += value if isinstance(value, list) else [value]
    candidates = [*ids, own, *turn_ends]
    return tuple(dict.fromkeys(each for each in candidates if isinstance(each, int) and each >= 0))


def _turn_ends(vocabulary: SubwordVocabulary | SentencePieceVocabulary, template: str) -> list[int]:
    harmony = vocabulary.token_id("<|channel|>") is not None  # there <|end|> ends a message, not the answer
    found = [text for text in _TURN_ENDS if text in template and not (harmony and text == "<|end|>")]
    return [each for each in map(vocabulary.token_id, found) if each is not None]


def _find(vocabulary: SubwordVocabulary | SentencePieceVocabulary, token: str | None) -> int | None:
    return None if token is None else vocabulary.token_id(token)


def _surround(subwords: Subwords, bos_id: int | None, eos_id: int | None) -> Any:
    """A post-processor that puts the beginning and the end around a text; None leaves one out."""
    before = "" if bos_id is None else subwords.id_to_token(bos_id)
    after = "" if eos_id is None else subwords.id_to_token(eos_id)
    if not before and not after:
        return subwords.post_processor
    tokens = {text: token_id for text, token_id in ((before, bos_id), (after, eos_id)) if text and token_id is not None}
    single = [part for part in (before, "$A", after) if part]
    return processors.TemplateProcessing(single=single, special_tokens=list(tokens.items()))


def _read_subwords(folder: ModelFolder, name: str) -> Subwords:
    text = _read_text(folder, name)
    try:
        subwords = Subwords.from_str(text)
    except Exception as error:
        raise CheckpointCorrupt(name, "it is not a tokenizer of this library's format") from error
    subwords.no_truncation()
    subwords.no_padding()
    return subwords


def _tokenizer_settings(folder: ModelFolder) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings |= {key: value for key, value in _read_object(folder, name).items() if value is not None}
    return settings


def _added_tokens(settings: Mapping[str, Any]) -> dict[int, str]:
    added = settings.get("added_tokens_decoder")
    if not isinstance(added, dict):
        return {}
    texts = {key: _token_text(value) for key, value in added.items()}
    return {int(key): text for key, text in texts.items() if key.isdigit() and text is not None}


def _token_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _template_sources(checkpoint: Checkpoint) -> dict[str, str]:
    """Templates by name: "default", and "tool_use" where the model has one."""
    if checkpoint.gguf_metadata is not None:
        template = checkpoint.gguf_metadata.get("tokenizer.chat_template")
        return {"default": template} if isinstance(template, str) else {}
    folder = ModelFolder(checkpoint.path)
    if folder.has("chat_template.jinja"):
        return {"default": _read_text(folder, "chat_template.jinja")}
    own = _read_object(folder, "chat_template.json").get("chat_template")
    value = own or _tokenizer_settings(folder).get("chat_template")
    if isinstance(value, list):
        return {each["name"]: each["template"] for each in value if isinstance(each, dict) and _is_named(each)}
    return {"default": value} if isinstance(value, str) else {}


def _is_named(template: Mapping[str, Any]) -> bool:
    return isinstance(template.get("name"), str) and isinstance(template.get("template"), str)


def _read_object(folder: ModelFolder, name: str) -> dict[str, Any]:
    """A JSON object from a file; {} when there is no such file."""
    return folder.json(name, _MAX_FILE_BYTES) if folder.has(name) else {}


def _read_text(folder: ModelFolder, name: str) -> str:
    with open_file(folder.file(name)) as file:
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise CheckpointCorrupt(name, f"it is larger than {_MAX_FILE_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CheckpointCorrupt(name, "it is not UTF-8") from None
