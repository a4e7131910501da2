"""Every GGML type that can be loaded gives the values that the gguf package's dequantiser gives, to the last bit."""

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from gguf.constants import GGML_QUANT_SIZES

from engine.checkpoint.bit_packing import pack_bits, unpack_bits
from engine.checkpoint.ggml_types import BY_NAME, LOADABLE
from engine.checkpoint.load import load_entry
from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointCorrupt

ROWS, COLUMNS = 24, 1024
PACKED = sorted(name for name, kind in BY_NAME.items() if kind.quantization is not None)
EXPANDED = sorted(name for name, kind in BY_NAME.items() if kind.expanded)
# Where a block has float16 scales.
HALVES = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,)},
}


def random_blocks(kind, count, random):
    """Every bit is drawn, except that scales are of a size that weights have."""
    blocks = random.integers(0, 256, (count, BY_NAME[kind].block_bytes), dtype=np.uint8)
    for start in HALVES.get(kind, ()):
        scales = random.uniform(-0.1, 0.1, count).astype("<f2")
        blocks[:, start : start + 2] = scales.view(np.uint8).reshape(-1, 2)
    if kind == "IQ1_M":  # its scale is in the upper nibbles of four words
        scales = random.uniform(0.001, 0.1, count).astype("<f2").view("<u2")
        words = blocks[:, 48:56].copy().view("<u2") & 0x0FFF
        blocks[:, 48:56] = (words | (scales[:, None] << np.array([12, 8, 4, 0], np.uint16) & 0xF000)).view(np.uint8)
    if kind == "MXFP4":
        blocks[:, 0] = random.integers(0, 250, count)
    if kind == "NVFP4":
        blocks[:, :4] = random.integers(0, 128, (count, 4))
    return blocks


def loaded(path, kind, *, exact=True):
    """Random blocks as they are loaded, and their values by the gguf package."""
    blocks = random_blocks(kind, ROWS * COLUMNS // BY_NAME[kind].block_values, np.random.default_rng(3))
    path.write_bytes(blocks.tobytes())
    entry = TensorEntry("x.weight", kind, (ROWS, COLUMNS), path, 0, blocks.nbytes)
    expected = quants.dequantize(blocks.reshape(ROWS, -1), GGMLQuantizationType[kind])
    return load_entry(entry, exact=exact), expected


def values(kind, arrays):
    how = BY_NAME[kind].quantization
    scales, biases = arrays["x.scales"], arrays.get("x.biases")
    if how.mode == "affine":
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    result = mx.dequantize(
        arrays["x.weight"],
        scales,
        biases,
        group_size=how.group_size,
        bits=how.bits,
        mode=how.mode,
        dtype=mx.float32,
    )
    return np.array(result)


@pytest.mark.parametrize("kind", PACKED)
def test_packed_types_keep_every_value(kind, tmp_path):
    arrays, expected = loaded(tmp_path / "x", kind)
    np.testing.assert_array_equal(values(kind, arrays), expected, strict=True)


@pytest.mark.parametrize("kind", EXPANDED)
def test_expanded_types_have_every_value(kind, tmp_path):
    arrays, expected = loaded(tmp_path / "x", kind)
    np.testing.assert_array_equal(np.array(arrays["x.weight"]), expected, strict=True)


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "IQ4_XS", "Q6_K", "Q2_K"])
def test_halves_are_as_near_as_halves_can_be(kind, tmp_path):
    arrays, expected = loaded(tmp_path / "x", kind, exact=False)
    assert mx.float32 not in {array.dtype for array in arrays.values()}
    found = values(kind, arrays) if "x.scales" in arrays else np.array(arrays["x.weight"].astype(mx.float32))
    np.testing.assert_allclose(found, expected, atol=2**-10 * np.abs(expected).max())


def test_all_types_of_the_reference_are_covered():
    ours = {name for name in BY_NAME if name not in ("F32", "F16", "BF16")}
    theirs = {kind.name for kind in quants._type_traits if kind.name not in ("F32", "F16", "BF16")}
    assert ours == theirs


@pytest.mark.parametrize("number", LOADABLE)
def test_blocks_have_the_reference_s_sizes(number):
    kind = LOADABLE[number]
    assert GGMLQuantizationType(number).name == kind.name
    assert GGML_QUANT_SIZES[GGMLQuantizationType(number)] == (kind.block_values, kind.block_bytes)


@pytest.mark.parametrize(("kind", "scale"), [("MXFP4", 255), ("NVFP4", 128)])
def test_a_scale_that_is_no_number_is_refused(kind, scale, tmp_path):
    blocks = random_blocks(kind, 16, np.random.default_rng(1))
    blocks[3, 0] = scale
    (tmp_path / "x").write_bytes(blocks.tobytes())
    columns = BY_NAME[kind].block_values
    with pytest.raises(CheckpointCorrupt, match="not finite"):
        load_entry(TensorEntry("x.weight", kind, (16, columns), tmp_path / "x", 0, blocks.nbytes))


@pytest.mark.parametrize("kind", ["Q6_K", "IQ3_S"])
def test_a_value_that_is_not_finite_is_refused(kind, tmp_path):
    blocks = random_blocks(kind, 4, np.random.default_rng(1))
    start = HALVES[kind][0]
    blocks[3, start : start + 2] = np.array([np.nan], "<f2").view(np.uint8)
    (tmp_path / "x").write_bytes(blocks.tobytes())
    with pytest.raises(CheckpointCorrupt, match="not finite"):
        load_entry(TensorEntry("x.weight", kind, (1, 1024), tmp_path / "x", 0, blocks.nbytes))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_bits_are_packed_as_mlx_packs_them(bits):
    numbers = np.random.default_rng(2).integers(0, 1 << bits, (4, 64), dtype=np.uint8)
    packed = pack_bits(numbers, bits)
    ones, zeros = mx.ones((4, 1)), mx.zeros((4, 1))
    found = mx.dequantize(mx.array(packed.view("<u4")), ones, zeros, group_size=64, bits=bits)
    np.testing.assert_array_equal(np.array(found), numbers)
    np.testing.assert_array_equal(unpack_bits(packed, bits), numbers)
