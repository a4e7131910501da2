"""GGML's blocks become MLX's packed arrays without a value changing.

The reference takes the blocks apart one by one, as ggml's definition of each type reads.
"""

import struct
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from engine.checkpoint.checkpoint import Quantization, open_checkpoint
from engine.checkpoint.load import load_tensors
from engine.errors import CheckpointCorrupt

BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}
BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}
DOWN, NAME = "blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj"


def values_of_block(kind, block):
    """The 32 values of one block: low nibbles are the first sixteen, high nibbles the rest."""
    scale = struct.unpack("<e", block[:2])[0]
    if kind == "Q8_0":
        return [scale * value for value in struct.unpack("<32b", block[2:])]
    minimum = struct.unpack("<e", block[2:4])[0] if kind == "Q4_1" else -8 * scale
    body = block[-16:]
    return [scale * nibble + minimum for nibble in [byte & 15 for byte in body] + [byte >> 4 for byte in body]]


def values_of(kind, data, shape):
    size = BLOCK_BYTES[kind]
    blocks = [values_of_block(kind, data[start : start + size]) for start in range(0, len(data), size)]
    return np.array(blocks, np.float32).reshape(shape)


def dequantized(arrays, module, bits):
    scales, biases = (arrays[f"{module}.{name}"].astype(mx.float32) for name in ("scales", "biases"))
    return np.array(mx.dequantize(arrays[f"{module}.weight"], scales, biases, group_size=32, bits=bits))


def load(path, file):
    path.write_bytes(file.encode())
    checkpoint = open_checkpoint(path)
    return checkpoint, dict(load_tensors(checkpoint))


@pytest.mark.parametrize("kind", BLOCK_BYTES)
def test_packed_values_are_those_of_the_blocks(kind, tmp_path, gguf):
    file = gguf(kind)
    checkpoint, arrays = load(tmp_path / "model.gguf", file)
    stored = {tensor.name: tensor for tensor in file.tensors}[DOWN]
    assert checkpoint.quantization[NAME] == Quantization(bits=BITS[kind], group_size=32)
    np.testing.assert_array_equal(
        dequantized(arrays, NAME, BITS[kind]), values_of(kind, stored.data, stored.shape), strict=True
    )


@pytest.mark.parametrize("kind", BLOCK_BYTES)
def test_packed_arrays_have_the_shapes_and_types_of_mlx(kind, tmp_path, gguf):
    _, arrays = load(tmp_path / "model.gguf", gguf(kind))
    packed, scales, biases = mx.quantize(mx.zeros((64, 96), mx.float16), group_size=32, bits=BITS[kind])
    for name, expected in {"weight": packed, "scales": scales, "biases": biases}.items():
        assert (arrays[f"{NAME}.{name}"].shape, arrays[f"{NAME}.{name}"].dtype) == (expected.shape, expected.dtype)


@pytest.mark.parametrize("kind", BLOCK_BYTES)
def test_every_value_of_a_block_finds_its_place(kind, tmp_path, gguf):
    """One value of 32 differs from the others, at each place in turn."""
    file = gguf(kind)
    packed_zero, packed_one = {"Q4_0": (8, 9), "Q4_1": (0, 1), "Q8_0": (0, 1)}[kind]
    head = struct.pack("<ee", 1.0, 0.0) if kind == "Q4_1" else struct.pack("<e", 1.0)
    rows = np.full((64, 96), packed_zero, np.uint8)
    rows[np.arange(64), np.arange(64)] = packed_one
    blocks = rows.reshape(-1, 32)
    bodies = blocks if kind == "Q8_0" else blocks[:, :16] | blocks[:, 16:] << 4
    data = b"".join(head + body.tobytes() for body in bodies)
    tensors = [replace(each, data=data) if each.name == DOWN else each for each in file.tensors]
    _, arrays = load(tmp_path / "model.gguf", replace(file, tensors=tensors))
    np.testing.assert_array_equal(dequantized(arrays, NAME, BITS[kind]), np.eye(64, 96, dtype=np.float32))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_dense_matrices_stay_as_they_are(kind, tmp_path, gguf):
    file = gguf(kind)
    checkpoint, arrays = load(tmp_path / "model.gguf", file)
    stored = {tensor.name: tensor for tensor in file.tensors}[DOWN]
    array = arrays[f"{NAME}.weight"]
    assert array.dtype == {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}[kind]
    assert array.shape == (64, 96)
    assert np.array(array.view(mx.uint8)).tobytes() == stored.data
    assert set(checkpoint.quantization) == {"model.embed_tokens"}


def test_types_may_be_mixed_tensor_by_tensor(tmp_path, gguf, gguf_tensor):
    file = gguf("Q4_0", embedding_kind="F16")
    kinds = {"blk.0.attn_v.weight": "Q8_0", "blk.1.attn_v.weight": "F32", "blk.0.ffn_up.weight": "Q4_1"}
    mixed = [gguf_tensor(t.name, t.shape, kinds[t.name]) if t.name in kinds else t for t in file.tensors]
    checkpoint, arrays = load(tmp_path / "model.gguf", replace(file, tensors=mixed))
    stored = {tensor.name: tensor for tensor in mixed}
    assert "model.embed_tokens" not in checkpoint.quantization
    assert "model.layers.1.self_attn.v_proj" not in checkpoint.quantization
    for name, module, kind in [
        ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj", "Q8_0"),
        ("blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj", "Q4_1"),
        (DOWN, NAME, "Q4_0"),
    ]:
        bits = checkpoint.quantization[module].bits
        expected = values_of(kind, stored[name].data, stored[name].shape)
        np.testing.assert_array_equal(dequantized(arrays, module, bits), expected)


def test_a_matrix_of_many_pieces_is_whole(tmp_path, gguf, gguf_tensor):
    """More blocks than are repacked at a time."""
    big = gguf_tensor("token_embd.weight", (9001, 64), "Q4_1")
    file = gguf()
    _, arrays = load(tmp_path / "model.gguf", replace(file, tensors=[big, *file.tensors[1:]]))
    np.testing.assert_array_equal(
        dequantized(arrays, "model.embed_tokens", 4), values_of("Q4_1", big.data, big.shape), strict=True
    )


@pytest.mark.parametrize(("kind", "scale"), [("Q4_0", "nan"), ("Q4_1", "inf"), ("Q8_0", "-inf"), ("Q8_0", "60000")])
def test_a_scale_that_is_not_finite_is_refused(kind, scale, tmp_path, gguf):
    """60,000 is finite, but the bias that goes with it in eight bits is not."""
    file, size = gguf(kind), BLOCK_BYTES[kind]
    stored = {tensor.name: tensor for tensor in file.tensors}
    last_block = struct.pack("<e", float(scale)) + stored[DOWN].data[-size + 2 :]
    stored[DOWN] = replace(stored[DOWN], data=stored[DOWN].data[:-size] + last_block)
    with pytest.raises(CheckpointCorrupt, match="scale that is not finite"):
        load(tmp_path / "model.gguf", replace(file, tensors=list(stored.values())))
