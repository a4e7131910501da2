"""Build a tokenizer from the vocabulary that a GGUF file carries in its metadata."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Subwords

from engine.checkpoint.json_object import shown
from engine.errors import CheckpointCorrupt, CheckpointUnsupported
from engine.text.word_patterns import GPT2_WORDS, WORD_PATTERNS, WordPattern

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_METASPACE = "\u2581"
# Converters have written these as plain words at times; no text means them as such.
_ALWAYS_CONTROL = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<EOT>",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    }
)
# What llama.cpp takes where a file does not say.
_DEFAULT_IDS = {"llama": {"bos": 1, "eos": 2}, "bert": {"cls": 101, "seperator": 102}}


def build_from_gguf(metadata: Mapping[str, Any], file_name: str) -> Subwords:
    """The tokenizer that `tokenizer.ggml.*` describes.

    Raises CheckpointUnsupported for kinds that are not known exactly, CheckpointCorrupt for lists that do not agree.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in _BUILDERS:
        raise CheckpointUnsupported("tokenizer.ggml.model", shown(kind), ", ".join(_BUILDERS))
    tokens = _strings(metadata, "tokenizer.ggml.tokens", file_name)
    types = _types(metadata, tokens, file_name)
    subwords = _BUILDERS[kind](metadata, tokens, file_name)
    _add_special(subwords, tokens, types)
    return subwords


def role_id(metadata: Mapping[str, Any], role: str) -> int | None:
    """The id of a token with a role, such as "bos"; None where there is none or it is outside of the vocabulary."""
    defaults = _DEFAULT_IDS.get(str(metadata.get("tokenizer.ggml.model")), {})
    token_id = metadata.get(f"tokenizer.ggml.{role}_token_id", defaults.get(role))
    return token_id if _token_at(metadata.get("tokenizer.ggml.tokens", []), token_id) is not None else None


def around_text(metadata: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The ids of the tokens before and after every text; None for none. Raises as build_from_gguf."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "bert":
        begin = role_id(metadata, "bos")
        return role_id(metadata, "cls") if begin is None else begin, role_id(metadata, "seperator")
    begins = kind == "llama" or word_pattern(metadata).begins
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", begins) is True
    # A file of Gemma 4 may deny the beginning that the model needs.
    add_bos = add_bos or kind == "gemma4"
    add_eos = metadata.get("tokenizer.ggml.add_eos_token", False) is True
    return role_id(metadata, "bos") if add_bos else None, role_id(metadata, "eos") if add_eos else None


def word_pattern(metadata: Mapping[str, Any]) -> WordPattern:
    """The pattern by which a byte-level vocabulary cuts words. Raises CheckpointUnsupported for an unknown name."""
    kind, name = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    name = kind if kind == "gemma4" else name
    if not isinstance(name, str) or name not in WORD_PATTERNS:
        raise CheckpointUnsupported("tokenizer.ggml.pre", shown(name), ", ".join(sorted(WORD_PATTERNS)))
    return WORD_PATTERNS[name]


def _byte_pairs(metadata: Mapping[str, Any], tokens: Sequence[str], file_name: str) -> Subwords:
    pattern = word_pattern(metadata)
    merges = [_pair(each, file_name) for each in _strings(metadata, "tokenizer.ggml.merges", file_name)]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    options = {"byte_fallback": True} if pattern.raw else {"ignore_merges": pattern.whole_words}
    subwords = Subwords(_bpe(file_name, vocabulary, merges, **options))
    words = [pre_tokenizers.Split(Regex(each), "isolated") for each in pattern.patterns]
    if pattern.raw:
        subwords.normalizer = normalizers.Replace(" ", _METASPACE)
        subwords.pre_tokenizer = pre_tokenizers.Sequence(words)
        subwords.decoder = decoders.Sequence(
            [decoders.Replace(_METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        return subwords
    if pattern.composed:
        subwords.normalizer = normalizers.NFC()
    if pattern.patterns[-1] == GPT2_WORDS:  # the library has a faster way to this one
        words.pop()
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=len(words) < len(pattern.patterns))
    subwords.pre_tokenizer = pre_tokenizers.Sequence([*words, to_bytes])
    subwords.decoder = decoders.ByteLevel()
    return subwords


def _word_pieces(metadata: Mapping[str, Any], tokens: Sequence[str], file_name: str) -> Subwords:
    """WordPiece, whose words begin with U+2581 in a GGUF where BERT's own file marks the other pieces with `##`."""
    types = _types(metadata, tokens, file_name)
    vocabulary = {
        token.removeprefix(_METASPACE) if token.startswith(_METASPACE) or kind != 1 else f"##{token}": token_id
        for token_id, (token, kind) in enumerate(zip(tokens, types, strict=True))
    }
    unknown = _token_at(tokens, metadata.get("tokenizer.ggml.unknown_token_id", 100))
    if unknown is None:
        raise CheckpointCorrupt(file_name, "tokenizer.ggml.unknown_token_id is none of its tokens")
    lowercase = metadata.get("tokenizer.ggml.normalizer.lowercase", True) is True
    strip_accents = metadata.get("tokenizer.ggml.normalizer.strip_accents", lowercase) is True
    subwords = Subwords(models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=100))
    subwords.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    subwords.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    subwords.decoder = decoders.WordPiece(prefix="##")
    return subwords


def _scored(metadata: Mapping[str, Any], tokens: Sequence[str], file_name: str) -> Subwords:
    """SentencePiece BPE: the pair whose joined piece has the best score is merged first."""
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise CheckpointCorrupt(file_name, "tokenizer.ggml.scores does not have one score per token")
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    unknown = _token_at(tokens, metadata.get("tokenizer.ggml.unknown_token_id", 0))
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
    special, user_defined = [], []
    for token, kind in zip(tokens, types, strict=True):
        if token and (kind in (_UNKNOWN, _CONTROL) or token in _ALWAYS_CONTROL):
            special.append(AddedToken(token, special=True, normalized=False))
        elif token and kind == _USER_DEFINED:
            user_defined.append(AddedToken(token, special=False, normalized=False))
    subwords.add_special_tokens(special)
    subwords.add_tokens(user_defined)


def _token_at(tokens: Sequence[str], token_id: Any) -> str | None:
    return tokens[token_id] if type(token_id) is int and 0 <= token_id < len(tokens) else None


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


_BUILDERS = {"gpt2": _byte_pairs, "llama": _scored, "bert": _word_pieces, "gemma4": _byte_pairs}
