"""Build a byte-level BPE tokenizer from vocab.json and merges.txt: GPT-2, RoBERTa, BART, Qwen (Radford et al. 2019)."""

from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Subwords

from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.json_object import shown
from engine.errors import CheckpointCorrupt, CheckpointUnsupported
from engine.text.settings import Roles, TokenizerSettings
from engine.text.vocabulary_file import read_merges, read_vocabulary
from engine.text.word_patterns import QWEN2_WORDS

VOCABULARY, MERGES = "vocab.json", "merges.txt"
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_QWEN2 = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
_KINDS = {
    "GPT2": _GPT2,
    "CodeGen": _GPT2,
    "Roberta": _ROBERTA,
    "Bart": _ROBERTA,
    "Qwen2": _QWEN2,
}
_OF_MODEL_TYPE = {
    "gpt2": "GPT2",
    "phi": "CodeGen",
    "roberta": "Roberta",
    "bart": "Bart",
    "qwen2": "Qwen2",
    "qwen3": "Qwen2",
    "qwen3_moe": "Qwen2",
}


def build_byte_pairs(
    folder: ModelFolder, settings: TokenizerSettings, config: Mapping[str, Any]
) -> tuple[Subwords, Roles]:
    """The tokenizer and how its special tokens are spelled, by role.

    Raises CheckpointNotFound, CheckpointCorrupt, and CheckpointUnsupported for families that cut words otherwise.
    """
    kind = settings.kind or _OF_MODEL_TYPE.get(str(config.get("model_type")), "")
    if kind not in _KINDS:
        raise CheckpointUnsupported("tokenizer_class", kind, f"{', '.join(_KINDS)}, or a tokenizer.json")
    roles = settings.named(_KINDS[kind])
    vocabulary = _vocabulary(folder, settings)
    spaced = settings.flag("add_prefix_space", default=False) is True
    subwords = Subwords(_model(vocabulary, read_merges(folder, MERGES)))
    subwords.decoder = decoders.ByteLevel()
    subwords.pre_tokenizer = _words(kind, spaced)
    if kind == "Qwen2":
        subwords.normalizer = normalizers.NFC()
    if _KINDS[kind] is _ROBERTA:
        sep, cls = (_required(vocabulary, roles[role]) for role in ("sep_token", "cls_token"))
        subwords.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=spaced)
    elif settings.flag("add_bos_token", default=False):
        begin = _required(vocabulary, roles["bos_token"])
        parts = [begin[0], "$A"]
        subwords.post_processor = processors.TemplateProcessing(
            single=parts, pair=[*parts, begin[0], "$B"], special_tokens=[begin]
        )
    return subwords, roles


def _vocabulary(folder: ModelFolder, settings: TokenizerSettings) -> dict[str, int]:
    """The file's tokens and those that are added; tokens without merges are found by name only."""
    vocabulary = read_vocabulary(folder, VOCABULARY)
    vocabulary |= {token.text: token_id for token_id, token in settings.added.items()}
    if len(set(vocabulary.values())) < len(vocabulary):
        raise CheckpointCorrupt(VOCABULARY, "a token that is added to it has the id of another")
    return vocabulary


def _words(kind: str, spaced: bool) -> pre_tokenizers.PreTokenizer:
    if kind != "Qwen2":
        return pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=False)])


def _model(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> models.BPE:
    for left, right in merges:
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise CheckpointCorrupt(MERGES, f"it merges {shown(token)}, which {VOCABULARY} has not")
    return models.BPE(vocab=vocabulary, merges=merges)


def _required(vocabulary: Mapping[str, int], token: str | None) -> tuple[str, int]:
    if token is None or token not in vocabulary:
        raise CheckpointCorrupt(VOCABULARY, f"it has no token {shown(token)}")
    return token, vocabulary[token]
