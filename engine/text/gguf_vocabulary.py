"""Build a tokenizer from the vocabulary that a GGUF file carries in its metadata."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Subwords

from engine.errors import CheckpointCorrupt, CheckpointUnsupported

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_METASPACE = "\u2581"

_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_WORDS = _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")


def build_from_gguf(metadata: Mapping[str, Any], file_name: str) -> Subwords:
    """The tokenizer that `tokenizer.ggml.*` describes.

    Raises CheckpointUnsupported for kinds that are not known exactly, CheckpointCorrupt for lists that do not agree.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens = _strings(metadata, "tokenizer.ggml.tokens", file_name)
    if kind == "gpt2":
        subwords = _byte_level(metadata, tokens, file_name)
    elif kind == "llama":
        subwords = _scored(metadata, tokens, file_name)
    else:
        raise CheckpointUnsupported("tokenizer.ggml.model", kind, "gpt2, llama")
    _add_special(subwords, tokens, _types(metadata, tokens, file_name))
    return subwords


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str], file_name: str) -> Subwords:
    merges = [_pair(each, file_name) for each in _strings(metadata, "tokenizer.ggml.merges", file_name)]
    name = metadata.get("tokenizer.ggml.pre")
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    # Llama 3 takes a whole word that is a token as it is, whatever its merges say.
    ignore_merges = name in ("llama-bpe", "llama3", "llama-v3")
    subwords = Subwords(_bpe(file_name, vocabulary, merges, ignore_merges=ignore_merges))
    subwords.pre_tokenizer = _pre_tokenizer(name)
    if name == "qwen2":
        subwords.normalizer = normalizers.NFC()
    subwords.decoder = decoders.ByteLevel()
    return subwords


def _pre_tokenizer(name: Any) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    llama3 = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_LLAMA3_WORDS), "isolated"), bytes_only])
    qwen2 = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated"), bytes_only])
    known: dict[str, pre_tokenizers.PreTokenizer] = {
        "gpt-2": byte_level,
        "smollm": digits,
        "starcoder": digits,
        "refact": digits,
        "llama-bpe": llama3,
        "llama3": llama3,
        "llama-v3": llama3,
        "smaug-bpe": llama3,
        "qwen2": qwen2,
        "deepseek-r1-qwen": qwen2,
    }
    if name not in known:
        raise CheckpointUnsupported("tokenizer.ggml.pre", name, ", ".join(sorted(known)))
    return known[name]


def _scored(metadata: Mapping[str, Any], tokens: Sequence[str], file_name: str) -> Subwords:
    """SentencePiece BPE: the pair whose joined piece has the best score is merged first."""
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise CheckpointCorrupt(file_name, "tokenizer.ggml.scores does not have one score per token")
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    unknown_id = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    unknown = tokens[unknown_id] if isinstance(unknown_id, int) and 0 <= unknown_id < len(tokens) else None
    merges = _merges_by_score(vocabulary, scores)
    subwords = Subwords(_bpe(file_name, vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _METASPACE)]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend(_METASPACE))
    subwords.normalizer = normalizers.Sequence(steps)
    subwords.decoder = decoders.Sequence(
        [
            decoders.Replace(_METASPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return subwords


def _merges_by_score(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    ranked: list[tuple[float, int, tuple[str, str]]] = []
    for piece, token_id in vocabulary.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[token_id], token_id, (left, right)))
    ranked.sort(key=lambda each: each[:2])
    return [pair for _, _, pair in ranked]


def _bpe(file_name: str, vocabulary: Mapping[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    try:
        return models.BPE(vocab=dict(vocabulary), merges=merges, **options)
    except Exception as error:
        raise CheckpointCorrupt(file_name, "a merge of its tokenizer names a token that is not there") from error


def _add_special(subwords: Subwords, tokens: Sequence[str], types: Sequence[int]) -> None:
    special = [token for token, kind in zip(tokens, types, strict=True) if kind in (_UNKNOWN, _CONTROL) and token]
    user_defined = [token for token, kind in zip(tokens, types, strict=True) if kind == _USER_DEFINED and token]
    subwords.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in special])
    subwords.add_tokens([AddedToken(each, special=False, normalized=False) for each in user_defined])


def _strings(metadata: Mapping[str, Any], key: str, file_name: str) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, list) or not values or not all(isinstance(each, str) for each in values):
        raise CheckpointCorrupt(file_name, f"{key} is not a list of strings")
    return values


def _types(metadata: Mapping[str, Any], tokens: Sequence[str], file_name: str) -> list[int]:
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise CheckpointCorrupt(file_name, "tokenizer.ggml.token_type does not have one type per token")
    return types


def _pair(merge: str, file_name: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space or not left or not right:
        raise CheckpointCorrupt(file_name, "a merge of its tokenizer is not a pair")
    return left, right
