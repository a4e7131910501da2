"""Prompts for filling in, as each family was trained on them."""

import pytest

from engine.text.fill_in import fill_in_ends, fill_in_prompt, fill_in_tokens
from engine.text.tokenizer import SpecialTokens, Tokenizer

A, Z = 1, 2  # what stands before and after the gap


class Spelled:
    """A vocabulary of control tokens alone: ids from 10 on, in order."""

    joins_bytes = True
    added: dict = {}  # noqa: RUF012  # of no instance

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.size = 10 + len(tokens)

    def encode(self, text, *, add_special_tokens, parse_special):
        return [10] if add_special_tokens and self.tokens[0] == "<s>" else []

    def token_id(self, token):
        return 10 + self.tokens.index(token) if token in self.tokens else None


def prompt(tokens: list[str]) -> str:
    """The prompt for text A and Z in a vocabulary that has these tokens, spelled."""
    special = SpecialTokens(ids=frozenset(), bos_id=10 if tokens[0] == "<s>" else None, eos_ids=())
    tokenizer = Tokenizer(Spelled(tokens), special)
    family = fill_in_tokens(tokenizer)
    assert family is not None
    spelled = {A: "A", Z: "Z", **{10 + place: token for place, token in enumerate(tokens)}}
    return "".join(spelled[each] for each in fill_in_prompt(tokenizer, family, [A], [Z]))


@pytest.mark.parametrize(
    "expected",
    [
        "<|fim_prefix|>A<|fim_suffix|>Z<|fim_middle|>",  # Qwen2.5-Coder, CodeGemma
        "<fim_prefix>A<fim_suffix>Z<fim_middle>",  # StarCoder, Granite
        "<fim-prefix>A<fim-suffix>Z<fim-middle>",  # SantaCoder
        "<｜fim▁begin｜>A<｜fim▁hole｜>Z<｜fim▁end｜>",  # DeepSeek-Coder
        "<s>▁<PRE>A▁<SUF>Z▁<MID>",  # Code Llama
        "<|code_suffix|>Z<|code_prefix|>A<|code_middle|>",  # CodeGeeX4
        "<[fim-suffix]>Z<[fim-prefix]>A<[fim-middle]>",  # Seed-Coder
        "<s>[SUFFIX]Z[PREFIX]A",  # Codestral
    ],
)
def test_the_gap_is_asked_for_in_the_family_s_own_order(expected):
    tokens = [each for each in expected.replace("A", " ").replace("Z", " ").split() if each]
    if tokens[0].startswith("<s>"):
        tokens = ["<s>", tokens[0].removeprefix("<s>"), *tokens[1:]]
    assert prompt(tokens) == expected


def test_a_vocabulary_without_a_whole_family_fills_nothing_in():
    tokenizer = Tokenizer(Spelled(["<fim_prefix>", "<fim_suffix>"]), SpecialTokens(frozenset(), None, ()))
    assert fill_in_tokens(tokenizer) is None


def test_what_ends_the_filled_in_text_is_found_in_the_vocabulary():
    tokenizer = Tokenizer(Spelled(["<|endoftext|>", "<EOT>"]), SpecialTokens(frozenset(), None, ()))
    assert set(fill_in_ends(tokenizer)) == {10, 11}
