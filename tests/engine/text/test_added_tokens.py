"""Tokens that a folder's files add to its vocabulary, wherever they are written and whatever ids they have."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Subwords
from tokenizers import decoders, models, normalizers, pre_tokenizers

from engine.checkpoint.checkpoint import Checkpoint
from engine.errors import CheckpointCorrupt
from engine.sampling.grammar import GrammarCompiler
from engine.sampling.params import Grammar
from engine.text.chat import Spellings
from engine.text.load import load_tokenizer
from engine.text.tokenizer import Tokenizer

START, END = "<|im_start|>", "<|im_end|>"
OWN = {258: "<s>", 259: "</s>"}
ASKED = f"{START}he{END}"


def load(folder: Path, config: dict | None = None) -> Tokenizer:
    return load_tokenizer(Checkpoint(folder, "safetensors", config or {}, {}, {}, {}, None))


def write(folder: Path, added: dict[int, str], settings: dict | None = None, *, special: bool = True) -> Path:
    """258 tokens of bytes and two words, and what is added to them."""
    vocabulary = {each: number for number, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    subwords = Subwords(
        models.BPE(vocab=vocabulary | {"he": 256, "ll": 257}, merges=[("h", "e"), ("l", "l")], cache_capacity=0)
    )
    subwords.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    subwords.decoder = decoders.ByteLevel()
    file = json.loads(subwords.to_str())
    file["added_tokens"] = [described(token_id, text, special=special) for token_id, text in added.items()]
    (folder / "tokenizer.json").write_text(json.dumps(file))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings or {}))
    return folder


def described(token_id: int, text: str, *, special: bool = True) -> dict:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": text, "special": special, **flags}


def test_tokens_that_only_the_settings_know_have_the_ids_that_these_state(tmp_path):
    decoder = {"260": {"content": START, "special": True}, "261": {"content": END, "special": True}}
    tokenizer = load(write(tmp_path, OWN, {"added_tokens_decoder": decoder, "eos_token": END}))
    assert tokenizer.encode(ASKED) == [260, 256, 261]
    assert tokenizer.eos_token_ids == (261,)
    assert tokenizer.vocab_size == 262


def test_tokens_of_a_file_of_their_own_are_added(tmp_path):
    write(tmp_path, OWN)
    (tmp_path / "added_tokens.json").write_text(json.dumps({START: 260, END: 300}))
    tokenizer = load(tmp_path)
    assert tokenizer.encode(ASKED) == [260, 256, 300]
    assert tokenizer.vocab_size == 301


def test_a_left_over_file_of_added_tokens_does_not_speak_against_the_settings(tmp_path):
    write(tmp_path, OWN, {"added_tokens_decoder": {"260": {"content": START}, "261": {"content": END}}})
    (tmp_path / "added_tokens.json").write_text(json.dumps({START: 261, END: 260}))
    assert load(tmp_path).encode(ASKED) == [260, 256, 261]


@pytest.mark.parametrize("key", ["additional_special_tokens", "extra_special_tokens"])
def test_special_tokens_without_ids_follow_the_vocabulary(tmp_path, key):
    tokenizer = load(write(tmp_path, OWN, {key: [START, END]}))
    assert tokenizer.encode(ASKED) == [260, 256, 261]
    assert {260, 261} <= tokenizer.special_ids


def test_special_tokens_that_the_model_has_no_rows_for_stay_text(tmp_path):
    folder = write(tmp_path, OWN, {"additional_special_tokens": [START, END]})
    tokenizer = load(folder, {"vocab_size": 261})
    assert tokenizer.encode(START) == [260]
    assert max(tokenizer.encode(END)) < 260


def test_ids_far_above_the_vocabulary_stay_as_the_file_states_them(tmp_path):
    added = {300: "<|endoftext|>", 320: "<|end|>", 321: "<|user|>"}
    tokenizer = load(write(tmp_path, added, {"eos_token": "<|end|>"}))
    assert tokenizer.encode("<|user|>he<|end|>") == [321, 256, 320]
    assert tokenizer.decode([321, 256, 320], skip_special_tokens=False) == "<|user|>he<|end|>"
    assert tokenizer.vocab_size == 322
    assert tokenizer.token(310) is None
    assert tokenizer.token_bytes(310) == b""


def test_a_grammar_is_followed_over_a_vocabulary_with_holes(tmp_path):
    tokenizer = load(write(tmp_path, {320: "<|end|>"}, {"eos_token": "<|end|>"}))
    row = GrammarCompiler(lambda: tokenizer, 330, (320,)).begin(Grammar('start: "he"'))
    assert row.allowed()[256]
    row.take([256])
    assert [int(each) for each in row.allowed().nonzero()[0]] == [320]


def test_an_added_token_with_the_id_of_another_is_damage(tmp_path):
    with pytest.raises(CheckpointCorrupt, match="under the id 5"):
        load(write(tmp_path, {5: "<|end|>"}))


def test_thousands_of_added_tokens_are_added_at_once(tmp_path):
    names = [f"<|reserved_{number}|>" for number in range(6406)]
    decoder = {str(260 + number): {"content": name, "special": True} for number, name in enumerate(names)}
    tokenizer = load(write(tmp_path, OWN, {"added_tokens_decoder": decoder}))
    assert tokenizer.encode(names[-1] + names[0]) == [260 + 6405, 260]


def test_thousands_of_spellings_are_broken_in_one_pass():
    spellings = Spellings([f"<|reserved_{number}|>" for number in range(6406)] + ["<s>", "]"])
    assert spellings.broken("a <|reserved_17|><s> <b> ]", "#") == "a <#|reserved_17|><#s> <b> ]"
    assert Spellings([]).broken("<s>", "#") == "<s>"


def test_added_words_spell_spaces_as_the_vocabulary_does(tmp_path):
    """Gemma adds runs of spaces and lines as words."""
    vocabulary = {"<unk>": 0, "\u2581": 1, "a": 2, "\u2581a": 3}
    subwords = Subwords(models.BPE(vocab=vocabulary, merges=[("\u2581", "a")], unk_token="<unk>"))
    subwords.normalizer = normalizers.Replace(" ", "\u2581")
    subwords.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    file = json.loads(subwords.to_str())
    file["added_tokens"] = [described(0, "<unk>"), described(4, "\u2581\u2581", special=False)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    tokenizer = load(tmp_path)
    assert tokenizer.decode([2, 4, 3]) == "a   a"
    assert tokenizer.decode([2, 4, 3]) == Subwords.from_file(str(tmp_path / "tokenizer.json")).decode([2, 4, 3])
    assert tokenizer.token_bytes(4) == b"  "
