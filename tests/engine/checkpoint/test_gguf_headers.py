"""A GGUF header that lies is refused by name, at once, and with nothing but our own errors."""

import struct
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.load import load_tensors
from engine.errors import CheckpointCorrupt, CheckpointError, CheckpointUnsupported

U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10
DOWN = "blk.1.ffn_down.weight"
NORM = "output_norm.weight"


def with_key(key, kind, value):
    return lambda file: replace(file, metadata=file.metadata | {key: (kind, value)}).encode()


def without_key(key):
    return lambda file: replace(file, metadata={k: v for k, v in file.metadata.items() if k != key}).encode()


def with_raw_key(content):
    """A last metadata entry given byte by byte."""
    return lambda file: replace(file, extra_metadata=content, num_keys=len(file.metadata) + 1).encode()


def with_tensor(name, **fields):
    def change(file):
        tensors = [replace(tensor, **fields) if tensor.name == name else tensor for tensor in file.tensors]
        return replace(file, tensors=tensors).encode()

    return change


def without_tensor(name):
    return lambda file: replace(file, tensors=[each for each in file.tensors if each.name != name]).encode()


def with_fields(**fields):
    return lambda file: replace(file, **fields).encode()


def with_more(name, length=64):
    """One more F32 tensor of this name."""

    def change(file):
        more = replace(file.tensors[-1], name=name, shape=(length,), data=bytes(4 * length))
        return replace(file, tensors=[*file.tensors, more]).encode()

    return change


def text(value):
    return struct.pack("<Q", len(value)) + value


def value(kind, content):
    return text(b"x") + struct.pack("<I", kind) + content


def nested_arrays(depth):
    return value(ARRAY, struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQ", U8, 0))


def stored_bytes(tensor):
    return -(-len(tensor.data) // 32) * 32


def size(file):
    return len(file.encode())


CORRUPTIONS = {
    "empty": lambda file: b"",
    "magic alone": lambda file: b"GGUF",
    "wrong magic": with_fields(magic=b"GGML"),
    "magic in reverse": with_fields(magic=b"FUGG"),
    "version 0": with_fields(version=0),
    "version 1": with_fields(version=1),
    "version 4": with_fields(version=4),
    "big-endian": with_fields(version=3 << 24),
    "2^63 tensors": with_fields(num_tensors=2**63),
    "2^64 - 1 tensors": with_fields(num_tensors=2**64 - 1),
    "a million tensors": with_fields(num_tensors=10**6),
    "a hundred thousand tensors": with_fields(num_tensors=10**5),
    "one tensor too many": lambda file: replace(file, num_tensors=len(file.tensors) + 1).encode(),
    "no tensors": with_fields(num_tensors=0),
    "2^63 keys": with_fields(num_keys=2**63),
    "2^64 - 1 keys": with_fields(num_keys=2**64 - 1),
    "fifty thousand keys": with_fields(num_keys=50_000),
    "one key too many": lambda file: replace(file, num_keys=len(file.metadata) + 1).encode(),
    "one key too few": lambda file: replace(file, num_keys=len(file.metadata) - 1).encode(),
    "key of 2^63 bytes": with_raw_key(struct.pack("<Q", 2**63)),
    "key past the end": lambda file: with_raw_key(struct.pack("<Q", size(file)))(file),
    "key without a name": with_raw_key(text(b"") + struct.pack("<I", U32) + bytes(4)),
    "key with a zero byte": with_raw_key(text(b"a\0b") + struct.pack("<I", U32) + bytes(4)),
    "key is not UTF-8": with_raw_key(text(b"\xff") + struct.pack("<I", U32) + bytes(4)),
    "key of 70,000 bytes": with_raw_key(text(b"k" * 70_000) + struct.pack("<I", U32) + bytes(4)),
    "key given twice": with_raw_key(text(b"llama.block_count") + struct.pack("<II", U32, 2)),
    "value of kind 13": with_raw_key(value(13, bytes(8))),
    "value of kind 2^32 - 1": with_raw_key(value(2**32 - 1, bytes(8))),
    "truth value of 2": with_raw_key(value(BOOL, b"\2")),
    "string of 2^64 - 1 bytes": with_raw_key(value(STRING, struct.pack("<Q", 2**64 - 1))),
    "string whose end wraps to its beginning": with_raw_key(value(STRING, struct.pack("<Q", 2**64 - 8))),
    "string past the end": lambda file: with_raw_key(value(STRING, struct.pack("<Q", size(file))))(file),
    "string is not UTF-8": with_raw_key(value(STRING, text(b"\xc3\x28"))),
    "array of 2^63 numbers": with_raw_key(value(ARRAY, struct.pack("<IQ", F32, 2**63))),
    "array whose bytes wrap at 2^64": with_raw_key(value(ARRAY, struct.pack("<IQ", U64, 2**61 + 1))),
    "array of 2^63 strings": with_raw_key(value(ARRAY, struct.pack("<IQ", STRING, 2**63))),
    "array of more strings than bytes": with_raw_key(value(ARRAY, struct.pack("<IQ", STRING, 100_000))),
    "array of kind 13": with_raw_key(value(ARRAY, struct.pack("<IQ", 13, 1) + bytes(8))),
    "array of truth values of 2": with_raw_key(value(ARRAY, struct.pack("<IQ", BOOL, 2) + b"\1\2")),
    "a string in an array goes past the end": with_raw_key(value(ARRAY, struct.pack("<IQQ", STRING, 2, 2**40))),
    "a string in an array is not UTF-8": with_raw_key(value(ARRAY, struct.pack("<IQ", STRING, 1) + text(b"\xff"))),
    "arrays eight deep": with_raw_key(nested_arrays(8)),
    "arrays a hundred thousand deep": with_raw_key(nested_arrays(100_000)),
    "alignment 0": with_key("general.alignment", U32, 0),
    "alignment 1": with_key("general.alignment", U32, 1),
    "alignment 24": lambda file: with_key("general.alignment", U32, 24)(replace(file, alignment=24)),
    "alignment 2^31": with_key("general.alignment", U32, 2**31),
    "alignment is text": with_key("general.alignment", STRING, "32"),
    "alignment is a truth value": with_key("general.alignment", BOOL, True),
    "alignment is a list": with_key("general.alignment", ARRAY, (U32, [32])),
    "no dimensions": with_fields(dimensions={NORM: ()}),
    "five dimensions": with_fields(dimensions={NORM: (64, 1, 1, 1, 1)}),
    "a dimension of 0": with_fields(dimensions={NORM: (0,)}),
    "a dimension of 2^63": with_fields(dimensions={NORM: (2**63,)}),
    "a dimension of 2^64 - 1": with_fields(dimensions={NORM: (2**64 - 1,)}),
    "dimensions whose product wraps at 2^64": with_fields(dimensions={NORM: (2**30, 2**30, 2**30)}),
    "dimensions beyond the file": with_fields(dimensions={NORM: (65,)}),
    "rows that are no whole blocks": with_fields(dimensions={DOWN: (95, 64)}),
    "rows of 48 in blocks of 32": with_fields(dimensions={DOWN: (48, 128)}),
    "offset past the end": with_fields(offsets={NORM: 2**30}),
    "offset of 2^63": with_fields(offsets={NORM: 2**63}),
    "offset that wraps at 2^64": with_fields(offsets={NORM: 2**64 - 32}),
    "offset off the alignment": lambda file: (
        replace(file, offsets={NORM: sum(map(stored_bytes, file.tensors[:-1])) + 1}).encode() + bytes(32)
    ),
    "a last tensor that ends past the end": lambda file: replace(
        file, offsets={NORM: (size(file) - len(file.header())) // 32 * 32 - 128}
    ).encode(),
    "two tensors at one place": with_fields(offsets={NORM: 0}),
    "two tensors overlap": with_fields(offsets={NORM: 64}),
    "a name given twice": with_more(NORM),
    "a name is empty": with_more(""),
    "a name has a line break": with_more("a\nb"),
    "a name of a thousand bytes": with_more("n" * 1000),
    "a type of its own": with_tensor(NORM, kind=77),
    "a type that was removed": with_tensor(NORM, kind=4),
    "type number 2^32 - 1": with_tensor(NORM, kind=2**32 - 1),
    "a tensor of another architecture": with_more("blk.0.ssm_conv1d.weight"),
    "a tensor beyond the last layer": with_more("blk.2.attn_norm.weight"),
    "a tensor of layer 10^9": with_more("blk.1000000000.attn_norm.weight"),
    "no embedding": without_tensor("token_embd.weight"),
    "an embedding of one dimension": with_tensor("token_embd.weight", shape=(64 * 48,)),
    "a norm in blocks": with_tensor(NORM, kind="Q8_0", shape=(64,), data=bytes(68)),
    "queries that the heads cannot share": with_key("llama.attention.head_count", U32, 5),
    "no architecture": without_key("general.architecture"),
    "architecture is a number": with_key("general.architecture", U32, 1),
    "architecture is a list": with_key("general.architecture", ARRAY, (STRING, ["llama"])),
    "another architecture": with_key("general.architecture", STRING, "gpt2"),
    "a projector": with_key("general.type", STRING, "mmproj"),
    "no layers": with_key("llama.block_count", U32, 0),
    "2^32 - 1 layers": with_key("llama.block_count", U32, 2**32 - 1),
    "layers are text": with_key("llama.block_count", STRING, "2"),
    "layers are a fraction": with_key("llama.block_count", F32, 2.0),
    "layers are a truth value": with_key("llama.block_count", BOOL, True),
    "layers are missing": without_key("llama.block_count"),
    "heads are a list": with_key("llama.attention.head_count", ARRAY, (U32, [4, 4])),
    "no heads": with_key("llama.attention.head_count", U32, 0),
    "epsilon is not a number": with_key("llama.attention.layer_norm_rms_epsilon", F32, float("nan")),
    "epsilon is infinite": with_key("llama.attention.layer_norm_rms_epsilon", F32, float("inf")),
    "rotary base of 0": with_key("llama.rope.freq_base", F32, 0.0),
    "rotary base below 0": with_key("llama.rope.freq_base", F32, -1.0),
    "values longer than keys": with_key("llama.attention.value_length", U32, 32),
    "rotation of half a head": with_key("llama.rope.dimension_count", U32, 8),
    "heads of odd length": with_key("llama.attention.key_length", U32, 15),
    "experts": with_key("llama.expert_count", U32, 8),
    "a key that nobody knows": with_key("llama.attention.twist", F32, 0.5),
    "end token outside the vocabulary": with_key("tokenizer.ggml.eos_token_id", U32, 48),
    "end token is text": with_key("tokenizer.ggml.eos_token_id", STRING, "2"),
    "end token is a list": with_key("tokenizer.ggml.eos_token_id", ARRAY, (U32, [2])),
    "rotary factors of the wrong length": with_more("rope_freqs.weight", 7),
    "rotary factors of 0": with_more("rope_freqs.weight", 8),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupt_header_is_refused(name, tmp_path, gguf):
    path = tmp_path / "model.gguf"
    path.write_bytes(CORRUPTIONS[name](gguf()))
    refuse(path, tmp_path)


@pytest.mark.parametrize(("kind", "name"), [(15, "Q8_K"), (41, "Q1_0"), (99, "number 99")])
def test_block_types_that_cannot_be_loaded_are_named_with_those_that_can(kind, name, tmp_path, gguf):
    path = tmp_path / "model.gguf"
    path.write_bytes(with_tensor(DOWN, kind=kind)(gguf()))
    with pytest.raises(CheckpointUnsupported) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"GGML type of tensor '{DOWN}' = '{name}' is not supported (supported: F32, ")
    assert "Q4_K, Q5_K, Q6_K, IQ2_XXS" in str(caught.value)


def test_an_offset_past_the_end_names_the_tensor_and_the_sizes(tmp_path, gguf):
    path = tmp_path / "model.gguf"
    content = with_fields(offsets={NORM: 2**30})(gguf())
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match=rf"it has {len(content)} bytes, but tensor '{NORM}' ends at byte 1\d+"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("a hundred thousand tensors", "100000 tensors"),
        ("fifty thousand keys", "50000 metadata keys"),
        ("array of more strings than bytes", "100000 metadata values"),
    ],
)
def test_a_count_that_the_file_has_no_room_for_is_refused_before_counting(name, claim, tmp_path, gguf):
    path = tmp_path / "model.gguf"
    path.write_bytes(CORRUPTIONS[name](gguf()))
    with pytest.raises(CheckpointCorrupt, match=rf"claims {claim}, but only \d+ bytes follow"):
        open_checkpoint(path)


def test_a_file_cut_anywhere_is_refused(tmp_path, gguf):
    content, path = gguf().encode(), tmp_path / "model.gguf"
    for length in [*range(0, len(gguf().header()), 7), *range(len(gguf().header()), len(content), 997)]:
        path.write_bytes(content[:length])
        refuse(path, tmp_path)


def test_the_second_version_opens_too(tmp_path, gguf):
    path = tmp_path / "model.gguf"
    path.write_bytes(replace(gguf(), version=2).encode())
    assert len(open_checkpoint(path).tensors) == 20


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_another_alignment_is_honoured(alignment, tmp_path, gguf):
    path = tmp_path / "model.gguf"
    file = replace(gguf(), alignment=alignment)
    file.metadata["general.alignment"] = (U32, alignment)
    path.write_bytes(file.encode())
    checkpoint = open_checkpoint(path)
    for entry, stored in zip(checkpoint.tensors.values(), file.tensors, strict=True):
        assert path.read_bytes()[entry.offset : entry.offset + entry.num_bytes] == stored.data


def test_nested_arrays_are_read(tmp_path, gguf):
    path = tmp_path / "model.gguf"
    path.write_bytes(with_key("x.y", ARRAY, (ARRAY, [(U32, [1, 2]), (STRING, ["a"])]))(gguf()))
    assert open_checkpoint(path).gguf_metadata["x.y"] == [[1, 2], ["a"]]


def test_a_vocabulary_of_a_quarter_million_opens_quickly(tmp_path, gguf):
    path, tokens = tmp_path / "model.gguf", [f"token {i}" for i in range(250_000)]
    path.write_bytes(with_key("tokenizer.ggml.tokens", ARRAY, (STRING, tokens))(gguf()))
    started = time.process_time()
    checkpoint = open_checkpoint(path)
    assert time.process_time() - started < 0.5
    assert checkpoint.gguf_metadata["tokenizer.ggml.tokens"] == tokens


def test_a_file_that_shrinks_after_it_was_checked_is_an_error(tmp_path, gguf):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf().encode())
    checkpoint = open_checkpoint(path)
    path.write_bytes(gguf().encode()[:-8192])
    with pytest.raises(CheckpointCorrupt, match="ended inside tensor"):
        dict(load_tensors(checkpoint))


@given(
    edits=st.lists(
        st.tuples(st.integers(0, 2**12), st.integers(0, 8), st.binary(min_size=0, max_size=8)), min_size=1, max_size=3
    )
)
@settings(max_examples=400, deadline=None)
def test_a_mutated_header_opens_or_is_refused(edits, tmp_path_factory, gguf):
    content = bytearray(gguf().encode())
    for place, length, replacement in edits:
        start = place % len(gguf().header())
        content[start : start + length] = replacement
    opens_or_is_refused(tmp_path_factory.getbasetemp() / "mutated.gguf", bytes(content))


@given(place=st.integers(0, 2**12), number=st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 2**64 - 32]))
@settings(max_examples=300, deadline=None)
def test_a_number_of_the_worst_kind_anywhere_opens_or_is_refused(place, number, tmp_path_factory, gguf):
    content = bytearray(gguf().encode())
    start = place % len(gguf().header())
    content[start : start + 8] = number.to_bytes(8, "little")
    opens_or_is_refused(tmp_path_factory.getbasetemp() / "numbers.gguf", bytes(content))


def opens_or_is_refused(path, content):
    """Either it cannot be opened, or every tensor lies inside the file, and reading it raises nothing of its own."""
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(path)
        assert all(0 < each.offset <= len(content) - each.num_bytes for each in checkpoint.tensors.values())
        dict(load_tensors(checkpoint))
    except CheckpointError:
        pass


def refuse(path, secret):
    """It comes within milliseconds of computing, and does not say where the file is."""
    started = time.process_time()
    with pytest.raises((CheckpointCorrupt, CheckpointUnsupported)) as caught:
        open_checkpoint(path)
    assert time.process_time() - started < 0.2
    assert str(secret) not in str(caught.value)
    assert len(str(caught.value)) < 500
