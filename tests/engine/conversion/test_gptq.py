"""Checkpoints of GPTQ and AWQ become MLX folders with every value as it was; the layouts here are written by hand."""

import json

import mlx.core as mx
import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.load import load_tensors
from engine.conversion.quantization import dequantize_values
from engine.conversion.quantize import convert
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

HIDDEN, INNER, VOCABULARY = 128, 256, 64
CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
}
MATRICES = {f"model.layers.0.self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"} | {
    "model.layers.0.mlp.gate_proj": (INNER, HIDDEN),
    "model.layers.0.mlp.up_proj": (INNER, HIDDEN),
    "model.layers.0.mlp.down_proj": (HIDDEN, INNER),
}


def words(numbers, bits):
    """Numbers along the first axis, from the low end of 32-bit words up, which they may straddle."""
    flat = (numbers[..., None].astype(np.uint8) >> np.arange(bits, dtype=np.uint8)) & 1
    stream = np.moveaxis(flat, -1, 1).reshape(-1, *numbers.shape[1:])  # bits one after the other
    packed = np.packbits(stream, axis=0, bitorder="little")
    return np.ascontiguousarray(np.moveaxis(packed, 0, -1)).view("<u4").astype(np.uint32).T.view(np.int32)


def awq_words(numbers):
    packed = np.zeros((numbers.shape[0], numbers.shape[1] // 8), np.uint32)
    for place, column in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        packed |= numbers[:, column::8].astype(np.uint32) << np.uint32(4 * place)
    return packed.view(np.int32)


def drawn(shape, bits, group_size, random, *, symmetric, order=None):
    """q (out, in), zeros and scales (groups, out), the group of each column, and the values."""
    rows, columns = shape
    groups = columns // group_size
    q = random.integers(0, 1 << bits, (rows, columns))
    zeros = random.integers(0, 1 << bits, (groups, rows)) if not symmetric else np.full((groups, rows), 1 << bits - 1)
    scales = random.uniform(0.001, 0.02, (groups, rows)).astype(np.float16)
    of_column = np.arange(columns) // group_size if order is None else order
    values = scales.astype(np.float32)[of_column].T * (q - zeros[of_column].T).astype(np.float32)
    return q, zeros, scales, of_column, values


def write(folder, method, bits, size, *, symmetric=True, order=None, version=1, settings=None):
    """A checkpoint of one layer; returns the values of its matrices."""
    random, tensors, expected = np.random.default_rng(4), {}, {}
    for path, shape in MATRICES.items():
        of_one = order if shape[1] == HIDDEN else None
        of_group = shape[1] if size == -1 else size
        q, zeros, scales, groups, values = drawn(shape, bits, of_group, random, symmetric=symmetric, order=of_one)
        expected[path] = values
        if method == "gptq":
            tensors[f"{path}.qweight"] = words(q.T, bits)
            tensors[f"{path}.qzeros"] = words(((zeros - (version == 1)) % (1 << bits)).T, bits).T
            tensors[f"{path}.g_idx"] = groups.astype(np.int32)
            tensors[f"{path}.bias"] = np.zeros(shape[0], np.float16)
        else:
            tensors[f"{path}.qweight"], tensors[f"{path}.qzeros"] = awq_words(q.T), awq_words(zeros)
        tensors[f"{path}.scales"] = scales
    for name in ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"):
        tensors[f"{name}.weight"] = np.ones(HIDDEN, np.float16)
    tensors["model.embed_tokens.weight"] = random.standard_normal((VOCABULARY, HIDDEN)).astype(np.float16)
    form = {"checkpoint_format": "gptq" if version == 1 else "gptq_v2"} if method == "gptq" else {"version": "gemm"}
    quantization = {"quant_method": method, "bits": bits, "group_size": size} | form | (settings or {})
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": quantization}))
    arrays = {name: mx.array(np.ascontiguousarray(array)) for name, array in tensors.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return expected


def values_of(folder):
    checkpoint = open_checkpoint(folder)
    arrays = dict(load_tensors(checkpoint))
    found = {}
    for path in MATRICES:
        how = checkpoint.quantization.get(path)
        parts = {
            part: arrays[f"{path}.{part}"] for part in ("weight", "scales", "biases") if f"{path}.{part}" in arrays
        }
        found[path] = np.array(parts["weight"] if how is None else dequantize_values(parts, how, mx.float32))
    return checkpoint, arrays, found


@pytest.mark.parametrize(
    ("method", "bits", "group_size", "more"),
    [
        ("gptq", 4, 128, {}),
        ("gptq", 4, 32, {"symmetric": False}),
        ("gptq", 8, 64, {"symmetric": False, "version": 2}),
        ("gptq", 3, 64, {"symmetric": False}),
        ("gptq", 2, 64, {}),
        ("gptq", 4, -1, {}),
        ("awq", 4, 64, {"symmetric": False}),
        ("awq", 4, 128, {}),
    ],
)
def test_every_value_is_kept(method, bits, group_size, more, tmp_path):
    expected = write(tmp_path / "theirs", method, bits, group_size, **more)
    convert(tmp_path / "theirs", tmp_path / "ours")
    checkpoint, arrays, found = values_of(tmp_path / "ours")
    assert {how.bits for how in checkpoint.quantization.values()} == {bits}
    assert set(checkpoint.quantization) == set(MATRICES)
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values, err_msg=path)
    halves = {arrays[f"{path}.scales"].dtype for path in MATRICES}
    assert halves == {mx.float16 if more.get("symmetric", True) else mx.float32}


def write_with_zeros_of_0(folder, *, borrowing, meta=None, centred=False):
    """A checkpoint of version 1 with a zero point of 0 in every word of a group; returns the values."""
    write(folder, "gptq", 4, 64, symmetric=False, settings={"meta": meta} if meta else {})
    random, expected = np.random.default_rng(7), {}
    arrays = {name: np.array(each) for name, each in mx.load(str(folder / "model.safetensors")).items()}
    for path, (rows, columns) in MATRICES.items():
        zeros = random.integers(4, 12, (columns // 64, rows)) * (np.arange(rows) % 8 != 2)
        around = np.repeat(zeros, 64, axis=0).T
        spread = random.integers(-3, 4, (rows, columns)) if centred else random.integers(0, 16, (rows, columns))
        q = np.clip(around + spread, 0, 15) if centred else spread
        arrays[f"{path}.qweight"] = words(q.T, 4)
        if borrowing:
            whole = words(zeros.T, 4).T.view(np.uint32) - np.uint32(0x11111111)
        else:
            whole = words(((zeros - 1) & 15).T, 4).T.view(np.uint32)
        arrays[f"{path}.qzeros"] = whole.view(np.int32)
        scales = np.repeat(arrays[f"{path}.scales"].astype(np.float32), 64, axis=0).T
        expected[path] = scales * (q - around).astype(np.float32)
    mx.save_safetensors(str(folder / "model.safetensors"), {name: mx.array(each) for name, each in arrays.items()})
    return expected


@pytest.mark.parametrize(
    "how",
    [
        {"borrowing": False},
        {"borrowing": False, "centred": True},
        {"borrowing": False, "meta": {"quantizer": ["auto_gptq:0.7.1"]}},
        {"borrowing": True, "meta": {"quantizer": ["gptqmodel:1.4.0"]}},
        {"borrowing": True, "meta": {"quantizer": "gptqmodel:2.0.0"}},
        {"borrowing": True, "centred": True},
    ],
)
def test_zero_points_of_0_are_read_in_both_dialects(how, tmp_path):
    expected = write_with_zeros_of_0(tmp_path / "theirs", **how)
    convert(tmp_path / "theirs", tmp_path / "ours")
    for path, values in values_of(tmp_path / "ours")[2].items():
        np.testing.assert_array_equal(values, expected[path], err_msg=path)


def test_columns_in_an_order_of_their_own_are_refused_or_expanded(tmp_path):
    order = np.random.default_rng(1).permutation(np.arange(HIDDEN) // 64)
    expected = write(tmp_path / "theirs", "gptq", 4, 64, order=order, settings={"desc_act": True})
    with pytest.raises(CheckpointUnsupported, match=r"desc_act = True .* --dequantize expands model.layers.0"):
        convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "theirs", tmp_path / "ours", dequantize=True, dtype="float32")
    for path, values in values_of(tmp_path / "ours")[2].items():
        np.testing.assert_array_equal(values, expected[path], err_msg=path)


@pytest.mark.parametrize(
    ("method", "settings", "named"),
    [
        ("awq", {"version": "gemv"}, "version = 'gemv'"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format"),
        ("gptq", {"bits": 5}, "bits = 5"),
        ("gptq", {"group_size": 48}, "group_size"),
    ],
)
def test_another_form_is_refused_by_name(method, settings, named, tmp_path):
    write(tmp_path / "theirs", method, 4, 64, settings=settings)
    with pytest.raises(CheckpointUnsupported, match=named):
        convert(tmp_path / "theirs", tmp_path / "ours")


def test_a_matrix_with_a_part_missing_is_damaged(tmp_path):
    write(tmp_path / "theirs", "awq", 4, 64)
    arrays = mx.load(str(tmp_path / "theirs" / "model.safetensors"))
    arrays.pop("model.layers.0.mlp.up_proj.qzeros")
    mx.save_safetensors(str(tmp_path / "theirs" / "model.safetensors"), arrays)
    with pytest.raises(CheckpointCorrupt, match="has a qweight, but no qzeros"):
        convert(tmp_path / "theirs", tmp_path / "ours")
