"""Prompts for filling in the middle of a text, as families of code models were trained on them. Reads no names.

Prefix-suffix-middle and suffix-prefix-middle orders are those of Bavarian et al. 2022 (arXiv:2207.14255).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class FillInTokens:
    """Control tokens before the prefix, before the suffix and before the answer; the latter may be missing.

    suffix_first: the suffix stands before the prefix
    """

    prefix: str
    suffix: str
    middle: str = ""
    suffix_first: bool = False


# The first row whose tokens are all in the vocabulary is taken.
_FAMILIES = (
    FillInTokens("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    FillInTokens("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    FillInTokens("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    FillInTokens("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    FillInTokens("▁<PRE>", "▁<SUF>", "▁<MID>"),
    FillInTokens("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", suffix_first=True),
    FillInTokens("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", suffix_first=True),
    FillInTokens("[PREFIX]", "[SUFFIX]", suffix_first=True),
)
# Where the filled-in text is over; each family has some of them.
_ENDS = (
    "<|fim_pad|>", "<fim_pad>", "<fim-pad>", "<|file_sep|>", "<file_sep>", "<|file_separator|>", "<|repo_name|>",
    "<EOT>", "▁<EOT>", "<|endoftext|>",
)  # fmt: skip


def fill_in_tokens(tokenizer: Tokenizer) -> FillInTokens | None:
    """The vocabulary's tokens that ask for a middle; None when it has none."""
    return next((each for each in _FAMILIES if _knows(tokenizer, each)), None)


def fill_in_ends(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens that end a filled-in text besides the model's own ends."""
    found = (tokenizer.token_id(each) for each in _ENDS)
    return tuple(each for each in found if each is not None)


def fill_in_prompt(
    tokenizer: Tokenizer, tokens: FillInTokens, prefix: Sequence[int], suffix: Sequence[int]
) -> tuple[int, ...]:
    """Ids that ask for what stands between prefix and suffix, behind the token that begins a text, if there is one."""
    start = tokenizer.encode("")[:1]
    begins = start if start and start[0] == tokenizer.bos_token_id else []
    before = (*_ids(tokenizer, tokens.prefix), *prefix)
    after = (*_ids(tokenizer, tokens.suffix), *suffix)
    parts = (after, before) if tokens.suffix_first else (before, after)
    return (*begins, *parts[0], *parts[1], *_ids(tokenizer, tokens.middle))


def _knows(tokenizer: Tokenizer, tokens: FillInTokens) -> bool:
    spelled = (tokens.prefix, tokens.suffix, tokens.middle)
    return all(tokenizer.token_id(each) is not None for each in spelled if each)


def _ids(tokenizer: Tokenizer, token: str) -> tuple[int, ...]:
    token_id = tokenizer.token_id(token) if token else None
    return () if token_id is None else (token_id,)
