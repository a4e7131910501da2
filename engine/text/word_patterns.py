"""The patterns by which byte-level vocabularies cut a text into words, under llama.cpp's names.

Every pattern cuts what the ones before it left whole. Knows regular expressions; knows no vocabulary and no file.
Source of the names: llama.cpp, src/llama-vocab.cpp. Where its pattern stands in for one that its engine of regular
expressions lacks, the pattern of the published tokenizer.json is used.
"""

from dataclasses import dataclass

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
QWEN2_WORDS = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_SIGNS}|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SIGNS_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"


def _cased(ending: str, digits: str, upper: str = _UPPER, lower: str = _LOWER) -> str:
    """Words that end where a capital follows a small letter, as the vocabulary o200k cuts them."""
    before = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{before}{upper}*{lower}+{ending}|{before}{upper}+{lower}*{ending}"
    return rf"{words}|{digits}|{_SIGNS_WITH_SLASH}|{_SPACES}"


_GPT4O = _cased(f"{_CONTRACTIONS}?", r"\p{N}{1,3}")
_KIMI = r"[\p{Han}]+|" + _cased(
    f"{_CONTRACTIONS}?",
    r"\p{N}{1,3}",
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]",
).replace(_SIGNS_WITH_SLASH, _SIGNS)
_HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_HAN_AND_KANA = "\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff"
_SIGN_AND_LETTERS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
_DEEPSEEK3_WORDS = rf"{_SIGN_AND_LETTERS}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_DEEPSEEK3 = (r"\p{N}{1,3}", f"[{_HAN_AND_KANA}]+", _DEEPSEEK3_WORDS)
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK = (
    r"[\r\n]",
    rf"\s?[{_CASED_LETTERS}]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    _HAN,
    r"\p{N}+",
)
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
# Threes from the right. Only the beginning of a number looks at the rest of it: the time stays linear.
_DIGIT_GROUPS = r"(?<!\p{N})\p{N}{1,2}(?=(?:\p{N}{3})*(?!\p{N}))|\p{N}{3}"
_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_YOUTU_SCRIPTS = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    f"|[\u3105-\u312f]+|[{_HAN_AND_KANA}]+"
)
_JAIS_SPACES = "|".join(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4))


@dataclass(frozen=True, slots=True)
class WordPattern:
    """One way to cut a text.

    patterns: regular expressions, the first before the second
    whole_words: a word that is a token stays whole, whatever the merges say
    begins: a text begins with the vocabulary's beginning token unless the file says otherwise
    composed: characters and their accents are joined first (NFC)
    raw: the vocabulary spells characters as themselves, not as bytes, and spaces as U+2581
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    begins: bool = False
    composed: bool = False
    raw: bool = False


_DIGITS = (r"\p{N}", GPT2_WORDS)
_LINES = r"[^\n]+|[\n]+"
_DEFAULT = WordPattern((r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))
_OF_NAMES: tuple[tuple[str, WordPattern], ...] = (
    ("default", _DEFAULT),
    ("minicpm5", WordPattern((r"\p{N}{1,3}", QWEN2_WORDS.replace(r"\p{N}|", r"\p{N}+|")), whole_words=True)),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        WordPattern((_LLAMA3,), whole_words=True, begins=True),
    ),
    ("dbrx smaug-bpe", WordPattern((_LLAMA3,))),
    ("chatglm-bpe", WordPattern((_LLAMA3,))),
    ("glm4 glm5", WordPattern((_LLAMA3,), whole_words=True)),
    ("deepseek-llm", WordPattern(_DEEPSEEK)),
    ("deepseek-coder", WordPattern((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}"))),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", WordPattern(_DEEPSEEK3)),
    (
        "spark2_5",
        WordPattern((*_DEEPSEEK3[:2], rf"{_SIGN_AND_LETTERS}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}")),
    ),
    ("youtu", WordPattern((_YOUTU_SCRIPTS, _cased(f"{_CONTRACTIONS}?", r"\p{N}")), whole_words=True)),
    ("falcon", WordPattern((r"[\p{P}\$\+<=>\^~\|`]+", GPT2_WORDS, r"[0-9][0-9][0-9]"))),
    ("starcoder refact smollm codeshell exaone minerva-7b mellum2", WordPattern(_DIGITS)),
    ("command-r", WordPattern(_DIGITS, composed=True)),
    (
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert exaone4 jais trillion "
        "granite-docling jina-v1-en jina-v2-code roberta-bpe",
        WordPattern((GPT2_WORDS,)),
    ),
    ("mpt olmo", WordPattern((GPT2_WORDS,), composed=True)),
    ("jais-2", WordPattern((_LLAMA3.replace(r"|\s+(?!\S)|\s+", rf"|{_JAIS_SPACES}|\s{{1,2}}(?!\S)|\s"),))),
    ("qwen2 stablelm2", WordPattern((QWEN2_WORDS,), composed=True)),
    ("deepseek-r1-qwen kormo f2llmv2 megrez hunyuan solar-open grok-2", WordPattern((QWEN2_WORDS,))),
    (
        "qwen35",
        WordPattern(
            (
                rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
                rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
            ),
        ),
    ),
    ("ufakzeka", WordPattern((rf"{_LETTERS}|\p{{N}}|{_SIGNS}|{_SPACES}",))),
    ("laguna", WordPattern((_LINES, QWEN2_WORDS))),
    ("poro-chat bloom gpt3-finnish", WordPattern((_BLOOM,))),
    ("viking", WordPattern((_BLOOM, r"\p{N}"))),
    ("tekken", WordPattern((_cased("", r"\p{N}"),), whole_words=True, begins=True)),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", WordPattern((_GPT4O,))),
    ("granite-embed-multi-97m", WordPattern((_GPT4O,), whole_words=True)),
    ("tiny_aya cohere2moe", WordPattern((_DIGIT_GROUPS, _GPT4O))),
    ("kimi-k2", WordPattern((_KIMI,))),
    ("superbpe", WordPattern((r"\p{N}+", _DIGIT_GROUPS))),
    (
        "chameleon",
        WordPattern(
            (
                r"<sentinel:[0-9]+>",
                r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                r"([\t\n]|    |  )",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                GPT2_WORDS,
            ),
            begins=True,
        ),
    ),
    (
        "bailingmoe bailingmoe2 llada-moe",
        WordPattern(
            (
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
                r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
    ),
    (
        "seed-coder",
        WordPattern((rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)),
    ),
    ("afmoe", WordPattern((_DIGIT_GROUPS, _ASIAN, _DEEPSEEK3_WORDS))),
    (
        "exaone-moe",
        WordPattern(
            (
                rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
    ),
    ("gemma4 granite-embed-multi-311m", WordPattern((_LINES,), begins=True, raw=True)),
    ("sarvam-moe", WordPattern((_LINES,), raw=True)),
)
WORD_PATTERNS = {name: pattern for names, pattern in _OF_NAMES for name in names.split()}
