"""Vocabularies of GGUF files: llama.cpp's own inputs as its own outputs, and the tokens around a text.

scripts/make_vocabulary_fixtures cuts the vocabularies down to what the inputs can use, and numbers them anew.
"""

import gzip
import json
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers

from engine.errors import CheckpointUnsupported
from engine.text.gguf_vocabulary import build_from_gguf, word_pattern
from engine.text.load import gguf_subwords
from engine.text.word_patterns import WORD_PATTERNS

FIXTURE = Path(__file__).parent / "fixtures" / "gguf-vocabularies.json.gz"
STORED = json.loads(gzip.decompress(FIXTURE.read_bytes()))
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize("vocabulary", STORED["vocabularies"], ids=lambda each: each["name"])
def test_llama_cpp_s_inputs_have_llama_cpp_s_ids(vocabulary):
    subwords = gguf_subwords(vocabulary["metadata"], vocabulary["name"])
    subwords.encode_special_tokens = True
    texts = STORED["inputs"][vocabulary["inputs"]]
    found = [subwords.encode(text, add_special_tokens=False).ids for text in texts]
    assert found == vocabulary["expected"]


def byte_metadata(pre: str | None = None, **keys) -> dict:
    tokens = [*BYTES, "<s>", "</s>", "ab"]
    named = {} if pre is None else {"tokenizer.ggml.pre": pre}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3, 3, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
        **named,
        **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
    }


def words(pre: str, text: str) -> list[str]:
    subwords = build_from_gguf(byte_metadata(pre), "tiny.gguf")
    return [text[start:end] for _, (start, end) in subwords.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "begins"),
    [("llama-bpe", True), ("tekken", True), ("chameleon", True), ("pixtral", True), ("qwen2", False)],
)
def test_a_file_that_does_not_say_begins_a_text_as_its_family_does(pre, begins):
    assert gguf_subwords(byte_metadata(pre), "tiny.gguf").encode("").ids == [256] * begins


def test_a_file_that_says_has_its_way():
    metadata = byte_metadata("llama-bpe", add_bos_token=False, add_eos_token=True)
    assert gguf_subwords(metadata, "tiny.gguf").encode("").ids == [257]


def test_a_beginning_outside_of_the_vocabulary_is_none():
    assert gguf_subwords(byte_metadata("llama-bpe", bos_token_id=999), "tiny.gguf").encode("").ids == []


def test_an_end_that_is_marked_as_a_word_is_still_a_control_token():
    metadata = byte_metadata("qwen2")
    metadata["tokenizer.ggml.tokens"][256] = "<|im_end|>"
    metadata["tokenizer.ggml.token_type"][256] = 1
    assert build_from_gguf(metadata, "tiny.gguf").encode("<|im_end|>").ids == [256]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-4o", ["foo", "Bar's", " ", "123", "4"]),
        ("tekken", ["foo", "Bar", "'s", " ", "1", "2", "3", "4"]),
        ("qwen2", ["fooBar", "'s", " ", "1", "2", "3", "4"]),
        ("llama-bpe", ["fooBar", "'s", " ", "123", "4"]),
        ("deepseek-llm", ["fooBar", "'", "s", " ", "1234"]),
        ("deepseek-v3", ["fooBar", "'s", " ", "123", "4"]),
        ("starcoder", ["fooBar", "'s", " ", "1", "2", "3", "4"]),
        ("gpt-2", ["fooBar", "'s", " 1234"]),
        ("default", ["fooBar", "'", "s", " ", "123", "4"]),
        ("bloom", ["fooBar's", " 1234"]),
        ("superbpe", ["fooBar's ", "1", "234"]),
        ("tiny_aya", ["foo", "Bar's", " ", "1", "234"]),
        ("afmoe", ["fooBar", "'s", " ", "1", "234"]),
    ],
)
def test_each_family_cuts_words_in_its_own_way(pre, expected):
    assert words(pre, "fooBar's 1234") == expected


def test_every_known_name_cuts_a_text_and_loses_none_of_it():
    text = "I'LL pay $1,234.50\r\n\n  for x\u0301 \u4f60\u597d caf\u00e9s\t(maybe) 12345678 "
    for name in WORD_PATTERNS:
        if not WORD_PATTERNS[name].raw:
            assert "".join(words(name, text)) == text, name


def test_a_million_digits_are_cut_at_once():
    assert len(words("afmoe", "1" * 200_000)) == 66_667


def test_an_unknown_name_is_not_supported_and_a_missing_one_is_the_default():
    with pytest.raises(CheckpointUnsupported, match=r"tokenizer\.ggml\.pre"):
        build_from_gguf(byte_metadata("martian"), "tiny.gguf")
    assert word_pattern(byte_metadata()) == WORD_PATTERNS["default"]
