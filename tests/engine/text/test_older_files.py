"""Tokenizers in the files of older releases against the ids that transformers gives, and files that are damaged."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoint.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.text.detokenizer import Detokenizer
from engine.text.load import load_tokenizer
from engine.text.tokenizer import Tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
OPENED: dict[str, Tokenizer] = {}


def open_tokenizer(folder: Path) -> Tokenizer:
    config = json.loads((folder / "config.json").read_text())
    return load_tokenizer(Checkpoint(folder, "safetensors", config, {}, {}, {}, None))


@pytest.fixture(params=sorted(path.parent for path in FIXTURES.glob("*/reference.json")), ids=lambda path: path.name)
def case(request):
    return open_tokenizer(request.param), json.loads((request.param / "reference.json").read_text())


def test_there_are_fixtures():
    assert len(list(FIXTURES.glob("*/reference.json"))) >= 16


def test_ids_are_the_reference_s(case):
    tokenizer, reference = case
    for each in reference["texts"]:
        assert tokenizer.encode(each["text"]) == each["ids"], each["text"]
        assert tokenizer.encode(each["text"], add_special_tokens=False) == each["bare"], each["text"]


def test_special_tokens_are_text_where_they_are_not_parsed(case):
    tokenizer, reference = case
    for each in reference["texts"]:
        ids = tokenizer.encode(each["text"], add_special_tokens=False, parse_special=False)
        assert ids == each["plain"], each["text"]


def test_pairs_are_the_reference_s(case):
    tokenizer, reference = case
    for each in reference["pairs"]:
        ids, types = tokenizer.encode_pair(each["first"], each["second"])
        assert ids == each["ids"]
        assert types == each.get("types", types)
        assert len(types) == len(ids)


def test_decoded_text_is_the_reference_s(case):
    tokenizer, reference = case
    for each in reference["texts"]:
        assert tokenizer.decode(each["ids"]).strip() == each["decoded"].strip()


@pytest.mark.parametrize("name", ["gpt2", "t5", "pegasus", "xlm-roberta", "mbart", "marian", "byt5", "llama"])
@settings(max_examples=40)
@given(st.data())
def test_any_tokens_streamed_read_as_the_whole(name, data):
    tokenizer = OPENED.setdefault(name, open_tokenizer(FIXTURES / name))
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=25))
    for skip in (True, False):
        detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
        streamed = "".join(detokenizer.push(each) for each in ids) + detokenizer.finish()
        assert streamed == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "byt5", "llama"])
@settings(max_examples=40)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
def test_vocabularies_with_bytes_keep_every_text(name, text):
    tokenizer = OPENED.setdefault(name, open_tokenizer(FIXTURES / name))
    composed = tokenizer.decode(tokenizer.encode(text, parse_special=False))
    assert composed == (normalize("NFC", text) if name == "qwen2" else text)


@pytest.fixture
def copy(tmp_path):
    """A fixture's folder with some of its files changed; None removes one."""

    def copy(name: str, **files: object) -> Path:
        folder = shutil.copytree(FIXTURES / name, tmp_path / name)
        for key, content in files.items():
            file = folder / key.replace("__", ".")
            if content is None:
                file.unlink()
            elif isinstance(content, bytes):
                file.write_bytes(content)
            else:
                file.write_text(content if isinstance(content, str) else json.dumps(content))
        return folder

    return copy


def test_added_tokens_have_the_ids_that_the_file_gives_them(copy):
    added = {"added_tokens__json": {"<extra>": 4321}, "special_tokens_map__json": {"sep_token": "[SEP]"}}
    for name in ("bert-uncased", "gpt2", "llama", "byt5"):
        tokenizer = open_tokenizer(copy(name, **added))
        ids = tokenizer.encode("a <extra> b")
        assert ids.count(4321) == 1
        assert tokenizer.vocab_size == 4322 or tokenizer.token_bytes(4321) == b"<extra>"
        assert "<extra>" not in tokenizer.decode(ids)
        assert 4321 not in tokenizer.encode("a <extra> b", parse_special=False)


def test_a_word_that_is_added_is_found_in_plain_text_too(copy):
    described = {"4321": {"content": "newword", "special": False}}
    for name in ("gpt2", "t5"):
        tokenizer = open_tokenizer(copy(name, tokenizer_config__json={"added_tokens_decoder": described}))
        ids = tokenizer.encode("a newword b", parse_special=False)
        assert ids.count(4321) == 1
        assert "newword" in tokenizer.decode(ids)


def test_a_special_piece_of_the_file_is_no_piece_of_plain_text(copy):
    """Gemma's file has the tokens of a turn among its words, and would find them anywhere."""
    piece = open_tokenizer(FIXTURES / "llama").token_id("\u2581the")
    described = {str(piece): {"content": "\u2581the", "special": True}}
    tokenizer = open_tokenizer(copy("llama", tokenizer_config__json={"added_tokens_decoder": described}))
    assert piece not in tokenizer.encode("and\u2581the dog", parse_special=False)
    assert piece in tokenizer.encode("and\u2581the dog")


def test_sentinels_stay_within_the_model_s_vocabulary(copy):
    tokenizer = open_tokenizer(copy("t5", config__json={"model_type": "t5", "vocab_size": 240}))
    assert tokenizer.vocab_size == 240
    assert tokenizer.encode("<extra_id_99>", add_special_tokens=False) == [tokenizer.token_id("<extra_id_99>")]
    assert tokenizer.token_id("<extra_id_0>") is None


def test_a_language_is_named_at_the_beginning_only():
    tokenizer = open_tokenizer(FIXTURES / "marian")
    assert tokenizer.encode(">>deu<< the dog")[0] == tokenizer.token_id(">>deu<<")
    assert tokenizer.token_id(">>deu<<") not in tokenizer.encode("the >>deu<< dog")


def test_mbart_50_is_known_by_the_size_of_its_vocabulary(copy):
    tokens = open_tokenizer(FIXTURES / "mbart-50").vocab_size
    config = {"model_type": "mbart", "vocab_size": tokens}
    tokenizer = open_tokenizer(copy("mbart-50", config__json=config, tokenizer_config__json={}))
    assert tokenizer.encode("a")[0] == tokenizer.token_id("en_XX")


@pytest.mark.parametrize(
    ("name", "files", "names"),
    [
        ("bert-uncased", {"vocab__txt": "a\nb\n"}, r"vocab\.txt.*UNK"),
        ("bert-uncased", {"vocab__txt": b"\xff\xfe"}, r"vocab\.txt.*UTF-8"),
        ("bert-uncased", {"vocab__txt": ""}, r"vocab\.txt.*0 lines"),
        ("bert-uncased", {"vocab__txt": "x" * 5000}, r"vocab\.txt.*5000 characters"),
        ("bert-uncased", {"tokenizer_config__json": {"do_lower_case": "yes"}}, "do_lower_case"),
        ("mpnet", {"tokenizer_config__json": {"sep_token": "<none>"}}, r"vocab\.txt.*<none>"),
        ("gpt2", {"vocab__json": None}, r"vocab\.json"),
        ("gpt2", {"vocab__json": {}}, r"vocab\.json.*no tokens"),
        ("gpt2", {"vocab__json": {"a": 0, "b": 0}}, r"vocab\.json.*one id"),
        ("gpt2", {"vocab__json": {"a": -1}}, r"vocab\.json.*-1"),
        ("gpt2", {"vocab__json": {"a": 1 << 40}}, r"vocab\.json.*1099511627776"),
        ("gpt2", {"vocab__json": {"a": True}}, r"vocab\.json.*True"),
        ("gpt2", {"vocab__json": {"a": "0"}}, r"vocab\.json"),
        ("gpt2", {"vocab__json": "[1]"}, r"vocab\.json.*list"),
        ("gpt2", {"merges__txt": "a"}, r"merges\.txt.*line 1"),
        ("gpt2", {"merges__txt": "#version: 0.2\na b c"}, r"merges\.txt.*line 2"),
        ("gpt2", {"merges__txt": "q \u0394"}, r"merges\.txt.*vocab\.json has not"),
        ("gpt2", {"added_tokens__json": {"x": 5}}, "id of another"),
        ("gpt2", {"added_tokens__json": {"x": 999, "y": 999}}, r"added_tokens\.json.*one id"),
        ("gpt2", {"added_tokens__json": {"": 999}}, r"added_tokens\.json"),
        ("gpt2", {"tokenizer_config__json": {"added_tokens_decoder": {"-1": "x"}}}, "no id"),
        ("gpt2", {"tokenizer_config__json": {"added_tokens_decoder": {"9" * 30: "x"}}}, "no id"),
        ("gpt2", {"tokenizer_config__json": {"added_tokens_decoder": [1]}}, "added_tokens_decoder"),
        ("gpt2", {"tokenizer_config__json": {"tokenizer_class": "CLIPTokenizer"}}, "CLIP"),
        ("gpt2", {"config__json": {"model_type": "starcoder2"}}, "tokenizer_class"),
        ("roberta", {"tokenizer_config__json": {"cls_token": "<none>"}}, r"vocab\.json.*<none>"),
        ("t5", {"spiece__model": b""}, r"spiece\.model.*empty"),
        ("t5", {"spiece__model": b"\n\xff\xff\xff"}, r"spiece\.model"),
        ("t5", {"spiece__model": b"not a model"}, r"spiece\.model"),
        ("t5", {"tokenizer_config__json": {"extra_ids": 10**9}}, "extra_ids"),
        ("t5", {"tokenizer_config__json": {"extra_ids": -1}}, "extra_ids"),
        ("pegasus", {"tokenizer_config__json": {"offset": 1}}, "offset"),
        ("mbart", {"tokenizer_config__json": {"src_lang": "xx_XX"}}, "src_lang.*xx_XX"),
        ("mbart", {"tokenizer_config__json": {"src_lang": []}}, "src_lang"),
        ("marian", {"target__spm": None}, r"target\.spm"),
        ("marian", {"target__spm": b"x"}, r"target\.spm"),
        ("marian", {"vocab__json": {"a": 0}}, r"vocab\.json.*unk"),
        ("marian", {"tokenizer_config__json": {"separate_vocabs": True}}, "separate_vocabs"),
        ("byt5", {"tokenizer_config__json": {"extra_ids": "many"}}, "extra_ids"),
        ("llama", {"added_tokens__json": {"<s>": 999}}, "two ids"),
    ],
)
def test_a_damaged_or_unknown_file_is_refused_by_name(copy, name, files, names):
    with pytest.raises(CheckpointError, match=names):
        open_tokenizer(copy(name, **files))


def test_a_family_whose_pieces_come_in_another_order_is_refused(copy):
    model = (FIXTURES / "t5" / "spiece.model").read_bytes()
    for name in ("xlm-roberta", "mbart"):
        with pytest.raises(CheckpointError, match="first pieces"):
            open_tokenizer(copy(name, sentencepiece__bpe__model=model))


def test_a_file_that_is_cut_short_is_refused_or_read_without_a_crash(copy):
    model = (FIXTURES / "t5" / "spiece.model").read_bytes()
    for size in range(0, len(model), 97):
        folder = copy("t5", spiece__model=model[:size])
        with suppress(CheckpointError):
            open_tokenizer(folder).encode("text")
        shutil.rmtree(folder)
