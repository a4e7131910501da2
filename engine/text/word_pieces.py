"""Build a WordPiece tokenizer from vocab.txt: BERT, DistilBERT, Nomic, MPNet (Schuster and Nakajima 2012)."""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer as Subwords
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.json_object import shown
from engine.errors import CheckpointCorrupt
from engine.text.settings import Roles, TokenizerSettings
from engine.text.vocabulary_file import read_lines

VOCABULARY = "vocab.txt"
_BERT = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
_MPNET = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "[UNK]",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}


def build_word_pieces(
    folder: ModelFolder, settings: TokenizerSettings, config: Mapping[str, Any]
) -> tuple[Subwords, Roles]:
    """The tokenizer and how its special tokens are spelled, by role.

    Raises CheckpointNotFound, CheckpointCorrupt and CheckpointUnsupported.
    """
    mpnet = "MPNet" in (settings.kind, "MPNet" if config.get("model_type") == "mpnet" else "")
    roles = settings.named(_MPNET if mpnet else _BERT)
    vocabulary = {token: token_id for token_id, token in enumerate(read_lines(folder, VOCABULARY))}
    vocabulary |= {token.text: token_id for token_id, token in settings.added.items()}
    ids = {role: _required(vocabulary, roles[role]) for role in ("unk_token", "cls_token", "sep_token")}
    subwords = Subwords(models.WordPiece(vocabulary, unk_token=str(roles["unk_token"]), max_input_chars_per_word=100))
    subwords.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", default=True) is not False,
        strip_accents=settings.flag("strip_accents", default=None),
        lowercase=settings.flag("do_lower_case", default=True) is not False,
    )
    subwords.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    subwords.decoder = decoders.WordPiece(prefix="##")
    around = (str(roles["sep_token"]), ids["sep_token"]), (str(roles["cls_token"]), ids["cls_token"])
    subwords.post_processor = (
        processors.RobertaProcessing(*around, trim_offsets=True, add_prefix_space=False)
        if mpnet
        else processors.BertProcessing(*around)
    )
    return subwords, roles


def _required(vocabulary: Mapping[str, int], token: str | None) -> int:
    if token is None or token not in vocabulary:
        raise CheckpointCorrupt(VOCABULARY, f"it has no token {shown(token)}")
    return vocabulary[token]
