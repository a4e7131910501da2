"""A safetensors header that lies is refused by name, at once, and with nothing but our own errors."""

import json
import time
from copy import deepcopy

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.load import load_tensors
from engine.errors import CheckpointCorrupt, CheckpointError, CheckpointUnsupported

DATA = np.arange(24, dtype="<f4").tobytes()
HEADER = {
    "__metadata__": {"format": "mlx"},
    "a.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    "b.weight": {"dtype": "F16", "shape": [16], "data_offsets": [32, 64]},
    "c.bias": {"dtype": "I64", "shape": [], "data_offsets": [64, 72]},
    "d.bias": {"dtype": "U8", "shape": [0, 3], "data_offsets": [72, 72]},
    "e.weight": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [72, 96]},
}


def changed(name, field, value):
    header = deepcopy(HEADER)
    header[name][field] = value
    return header


def with_tensor(name, **fields):
    return deepcopy(HEADER) | {name: fields}


def without(name, field):
    header = deepcopy(HEADER)
    del header[name][field]
    return header


TEXT = json.dumps(HEADER).encode()
FIRST = b'{"a.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}'
# name: (header, data); the header may be bytes
CORRUPTIONS = {
    "data is cut short": (HEADER, DATA[:-1]),
    "data is missing": (HEADER, b""),
    "data goes on": (HEADER, DATA + b"\0"),
    "offset past the end": (changed("e.weight", "data_offsets", [96, 120]), DATA),
    "offset of 2^63": (changed("e.weight", "data_offsets", [72, 2**63]), DATA),
    "offset of 2^64": (changed("e.weight", "data_offsets", [2**64, 2**64 + 24]), DATA),
    "offset of a thousand digits": (changed("e.weight", "data_offsets", [72, 10**1000]), DATA),
    "offset of five thousand digits": (TEXT.replace(b"[72, 96]", b"[72, " + b"9" * 5000 + b"]"), DATA),
    "negative offset": (changed("a.weight", "data_offsets", [-32, 0]), DATA),
    "offsets reversed": (changed("a.weight", "data_offsets", [32, 0]), DATA),
    "one offset": (changed("a.weight", "data_offsets", [0]), DATA),
    "three offsets": (changed("a.weight", "data_offsets", [0, 16, 32]), DATA),
    "offsets are text": (changed("a.weight", "data_offsets", ["0", "32"]), DATA),
    "offsets are fractions": (changed("a.weight", "data_offsets", [0.0, 32.0]), DATA),
    "offsets are truth values": (changed("d.bias", "data_offsets", [False, False]), DATA),
    "offsets are an object": (changed("a.weight", "data_offsets", {"0": 32}), DATA),
    "offsets are null": (changed("a.weight", "data_offsets", None), DATA),
    "offsets are missing": (without("a.weight", "data_offsets"), DATA),
    "two tensors overlap": (changed("b.weight", "data_offsets", [16, 48]), DATA),
    "two tensors share all bytes": (with_tensor("f", dtype="F32", shape=[2, 4], data_offsets=[0, 32]), DATA),
    "a hole in the middle": (
        {name: fields for name, fields in HEADER.items() if name != "b.weight"},
        DATA,
    ),
    "a hole at the beginning": ({"b.weight": {"dtype": "F16", "shape": [16], "data_offsets": [32, 64]}}, DATA[:64]),
    "bytes are not those of the shape": (changed("a.weight", "shape", [2, 5]), DATA),
    "bytes are not those of the type": (changed("a.weight", "dtype", "F16"), DATA),
    "negative dimensions": (changed("a.weight", "shape", [-2, -4]), DATA),
    "one negative dimension": (changed("a.weight", "shape", [-8]), DATA),
    "dimension of 2^31 beside zero": (changed("d.bias", "shape", [0, 2**31]), DATA),
    "dimensions whose product wraps at 2^64": (changed("a.weight", "shape", [2**33, 2**31, 8]), DATA),
    "dimensions whose product wraps to the truth": (changed("a.weight", "shape", [2**61 + 1, 8]), DATA),
    "dimension is a fraction": (changed("a.weight", "shape", [2.0, 4]), DATA),
    "dimension is text": (changed("a.weight", "shape", ["2", 4]), DATA),
    "dimension is a truth value": (changed("a.weight", "shape", [True, 8]), DATA),
    "dimension is null": (changed("a.weight", "shape", [None, 8]), DATA),
    "nested dimensions": (changed("a.weight", "shape", [[2, 4]]), DATA),
    "nine dimensions": (changed("a.weight", "shape", [2, 4, 1, 1, 1, 1, 1, 1, 1]), DATA),
    "a hundred thousand dimensions": (changed("a.weight", "shape", [8] + [1] * 100_000), DATA),
    "shape is a number": (changed("a.weight", "shape", 8), DATA),
    "shape is missing": (without("a.weight", "shape"), DATA),
    "unknown type": (changed("a.weight", "dtype", "F31"), DATA),
    "type that MLX has not": (changed("a.weight", "dtype", "F8_E4M3"), DATA),
    "type in lower case": (changed("a.weight", "dtype", "f32"), DATA),
    "type is a number": (changed("a.weight", "dtype", 32), DATA),
    "type is null": (changed("a.weight", "dtype", None), DATA),
    "type is a list": (changed("a.weight", "dtype", ["F32"]), DATA),
    "type is missing": (without("a.weight", "dtype"), DATA),
    "unknown field": (changed("a.weight", "strides", [4, 1]), DATA),
    "tensor is a list": (deepcopy(HEADER) | {"f": []}, DATA),
    "tensor is null": (deepcopy(HEADER) | {"f": None}, DATA),
    "tensor without a name": (with_tensor("", dtype="U8", shape=[0], data_offsets=[96, 96]), DATA),
    "name with a zero byte": (with_tensor("a\0b", dtype="U8", shape=[0], data_offsets=[96, 96]), DATA),
    "name with half a surrogate pair": (with_tensor("\ud800", dtype="U8", shape=[0], data_offsets=[96, 96]), DATA),
    "name of a megabyte": (with_tensor("n" * 2**20, dtype="U8", shape=[0], data_offsets=[96, 96]), DATA),
    "tensor given twice": (FIRST + b", " + FIRST[1:] + b"}", DATA[:32]),
    "field given twice": (FIRST.replace(b'"dtype"', b'"dtype": "F16", "dtype"') + b"}", DATA[:32]),
    "metadata is a list": (deepcopy(HEADER) | {"__metadata__": ["mlx"]}, DATA),
    "metadata has a number": (deepcopy(HEADER) | {"__metadata__": {"format": 1}}, DATA),
    "metadata given twice": (b'{"__metadata__": {}, "__metadata__": {}}', b""),
    "header is a list": (b"[]", b""),
    "header is a number": (b"12345678", b""),
    "header is empty": (b"", DATA),
    "header is spaces": (b" " * 64, DATA),
    "header begins with a space": (b" " + TEXT, DATA),
    "header is not JSON": (b"{" + b"x" * 63, DATA),
    "header ends early": (TEXT[:-1], DATA),
    "header has something after it": (TEXT + b"{}", DATA),
    "header is not UTF-8": (TEXT.replace(b"a.weight", b"a.w\xffight"), DATA),
    "header is UTF-16": (json.dumps(HEADER).encode("utf-16"), DATA),
    "header of zeros": (bytes(64), DATA),
    "not a number as an offset": (TEXT.replace(b"[72, 96]", b"[72, NaN]"), DATA),
    "infinity as an offset": (TEXT.replace(b"[72, 96]", b"[72, Infinity]"), DATA),
    "a hundred levels of objects": (b'{"a":' * 100 + b"1" + b"}" * 100, DATA),
    "a million open brackets": (b'{"a":' + b"[" * 1_000_000, DATA),
    "a million open braces": (b'{"a":' * 1_000_000, DATA),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupt_header_is_refused(name, tmp_path, encode_safetensors, write_folder):
    header, data = CORRUPTIONS[name]
    folder = write_folder(tmp_path / "model", {"model.safetensors": encode_safetensors(header, data)})
    refuse(folder, tmp_path)


@pytest.mark.parametrize("header_bytes", [0, 1, len(TEXT) - 1, len(TEXT) + 1, 2**31, 2**32, 2**63, 2**64 - 1])
def test_a_header_of_another_length_is_refused(header_bytes, tmp_path, encode_safetensors, write_folder):
    content = encode_safetensors(HEADER, DATA, header_bytes=header_bytes)
    refuse(write_folder(tmp_path / "model", {"model.safetensors": content}), tmp_path)


def test_a_header_above_the_limit_is_refused_before_it_is_parsed(tmp_path, encode_safetensors, write_folder):
    folder = write_folder(tmp_path / "model", {"model.safetensors": encode_safetensors(b"{" * 40_000_000, b"")})
    assert "more than" in str(refuse(folder, tmp_path))


def test_a_file_cut_anywhere_is_refused(tmp_path, encode_safetensors, write_folder):
    content = encode_safetensors(HEADER, DATA)
    for length in range(len(content)):
        refuse(write_folder(tmp_path / "model", {"model.safetensors": content[:length]}), tmp_path)


def test_the_message_names_the_file_and_the_tensor(tmp_path, encode_safetensors, write_folder):
    content = encode_safetensors(changed("a.weight", "shape", [2, 5]), DATA)
    error = refuse(write_folder(tmp_path / "model", {"model.safetensors": content}), tmp_path)
    assert str(error) == (
        "model.safetensors is damaged: tensor 'a.weight' has 32 bytes, not those of F32 in shape [2, 5]"
    )


def test_an_unsupported_type_is_named_with_the_supported_ones(tmp_path, encode_safetensors, write_folder):
    content = encode_safetensors(changed("a.weight", "dtype", "F8_E4M3"), DATA)
    with pytest.raises(CheckpointUnsupported, match=r"a\.weight.* = 'F8_E4M3' .*BF16"):
        open_checkpoint(write_folder(tmp_path / "model", {"model.safetensors": content}))


def test_a_sound_file_is_read_as_it_is_stored(tmp_path, encode_safetensors, write_folder):
    checkpoint = open_checkpoint(write_folder(tmp_path, {"model.safetensors": encode_safetensors(HEADER, DATA)}))
    arrays = dict(load_tensors(checkpoint))
    assert checkpoint.num_bytes == len(DATA)
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {
        "a.weight": (mx.float32, (2, 4)),
        "b.weight": (mx.float16, (16,)),
        "c.bias": (mx.int64, ()),
        "d.bias": (mx.uint8, (0, 3)),
        "e.weight": (mx.bfloat16, (3, 4)),
    }
    np.testing.assert_array_equal(np.array(arrays["a.weight"]), np.arange(8, dtype=np.float32).reshape(2, 4))
    assert arrays["c.bias"].item() == int.from_bytes(DATA[64:72], "little")
    as_float = np.zeros(12, "<u4") | np.frombuffer(DATA[72:96], "<u2")
    np.testing.assert_array_equal(np.array(arrays["e.weight"].astype(mx.float32)).ravel(), (as_float << 16).view("<f4"))


@pytest.mark.parametrize("kind", ["bool_", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
def test_every_integer_type_survives_a_round_trip(kind, tmp_path, write_folder):
    array = mx.array([[0, 1, 2], [3, 4, 5]]).astype(getattr(mx, kind))
    mx.save_safetensors(str(write_folder(tmp_path, {}) / "model.safetensors"), {"x": array})
    loaded = dict(load_tensors(open_checkpoint(tmp_path)))["x"]
    assert loaded.dtype == array.dtype
    assert mx.array_equal(loaded, array)


def test_any_byte_but_zero_is_true(tmp_path, encode_safetensors, write_folder):
    content = encode_safetensors({"x": {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]}}, b"\0\1\2\xff")
    loaded = dict(load_tensors(open_checkpoint(write_folder(tmp_path, {"model.safetensors": content}))))["x"]
    assert np.array(loaded).view(np.uint8).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_every_float_type_survives_a_round_trip(kind, tmp_path, write_folder):
    array = mx.random.normal((5, 7), key=mx.random.key(3)).astype(getattr(mx, kind))
    mx.save_safetensors(str(write_folder(tmp_path, {}) / "model.safetensors"), {"x": array})
    loaded = dict(load_tensors(open_checkpoint(tmp_path)))["x"]
    assert loaded.dtype == array.dtype
    assert mx.array_equal(loaded, array)


def test_a_file_that_shrinks_after_it_was_checked_is_an_error(tmp_path, encode_safetensors, write_folder):
    content = encode_safetensors(HEADER, DATA)
    checkpoint = open_checkpoint(write_folder(tmp_path, {"model.safetensors": content}))
    (tmp_path / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(CheckpointCorrupt, match=r"e\.weight"):
        dict(load_tensors(checkpoint))


def test_a_hundred_tensors_open_quickly(tmp_path, encode_safetensors, write_folder):
    header = {f"{i}.weight": {"dtype": "F32", "shape": [8], "data_offsets": [32 * i, 32 * i + 32]} for i in range(100)}
    folder = write_folder(tmp_path, {"model.safetensors": encode_safetensors(header, bytes(3200))})
    started = time.process_time()
    open_checkpoint(folder)
    assert time.process_time() - started < 0.05


@given(
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 3), st.binary(min_size=1, max_size=8)), max_size=4)
)
@settings(max_examples=300, deadline=None)
def test_a_mutated_file_opens_or_is_refused(edits, tmp_path_factory, encode_safetensors, write_folder):
    content = bytearray(encode_safetensors(HEADER, DATA))
    for place, length, replacement in edits:
        start = place % (len(content) + 1)
        content[start : start + length] = replacement
    opens_or_is_refused(write_folder(tmp_path_factory.getbasetemp() / "mutated", {"model.safetensors": bytes(content)}))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4) | st.just("F32"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    name=st.sampled_from(sorted(HEADER)),
    field=st.sampled_from(["dtype", "shape", "data_offsets"]),
    value=JSON_VALUES | st.lists(st.integers(-4, 100), max_size=3),
)
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_field_opens_or_is_refused(
    name, field, value, tmp_path_factory, encode_safetensors, write_folder
):
    content = encode_safetensors(changed(name, field, value), DATA)
    opens_or_is_refused(write_folder(tmp_path_factory.getbasetemp() / "fields", {"model.safetensors": content}))


def opens_or_is_refused(folder):
    """Either it cannot be opened, or every tensor lies inside the file and can be read."""
    try:
        checkpoint = open_checkpoint(folder)
    except CheckpointError:
        return
    size = (folder / "model.safetensors").stat().st_size
    assert all(8 < entry.offset <= entry.offset + entry.num_bytes <= size for entry in checkpoint.tensors.values())
    assert len(dict(load_tensors(checkpoint))) == len(checkpoint.tensors)


def refuse(folder, secret):
    """The error; it comes within milliseconds of computing and does not say where the file is."""
    started = time.process_time()
    with pytest.raises((CheckpointCorrupt, CheckpointUnsupported)) as caught:
        open_checkpoint(folder)
    assert time.process_time() - started < 0.2
    assert str(secret) not in str(caught.value)
    assert len(str(caught.value)) < 500
    return caught.value
