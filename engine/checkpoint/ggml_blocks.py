"""Bring GGML's blocks into MLX's packed layout, value for value, in numpy. Knows no file and no mlx.

MLX packs a row's values from a word's low bits upwards, and value = scale * packed + bias with one scale and bias per
group. GGML keeps scales and values together, and most often the first half of a run of values in the low halves of
bytes. Source: ggml-quants.c and ggml-common.h of ggml.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.checkpoint.bit_packing import pack_bits
from engine.checkpoint.ggml_scales import Bytes, halves, k_scales
from engine.checkpoint.ggml_types import GGMLType

# Packed bytes, scales, and biases where the mode has them; one row per block.
Repacked = tuple[Bytes, NDArray[Any], NDArray[Any] | None]
_SCALE_TYPES = {"F16": np.float16, "F32": np.float32, "U8": np.uint8}
# Values of IQ4_NL and IQ4_XS by number, shifted up to be unsigned.
_CURVE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16)
_SHIFTED_CURVE = (_CURVE + 128).astype(np.uint8)
_POWERS_OF_3 = np.array([1, 3, 9, 27, 81], np.uint8)
_NAN_SCALE = 0x7F
# Of a byte: the exponent above is no number, and scales of NVFP4 have no sign.
_LARGEST_SCALES = {"MXFP4": 0xFE, "NVFP4": 0x7E}


@dataclass(frozen=True, slots=True)
class PackedBlocks:
    """MLX's three arrays for a run of blocks, filled piece by piece.

    packed: (blocks, bytes of a block's values); scales, biases: (blocks, groups of a block); no biases where the mode
    has none, and their scales are bytes up to largest_scale
    """

    packed: Bytes
    scales: NDArray[Any]
    biases: NDArray[Any] | None
    largest_scale: int

    @classmethod
    def empty(cls, num_blocks: int, kind: GGMLType, *, exact: bool = True) -> "PackedBlocks":
        """Room for `num_blocks` blocks. Not exact: scales and biases are float16 where they would be float32."""
        quantization = kind.quantization
        assert quantization is not None
        groups = kind.block_values // quantization.group_size
        dtype = _SCALE_TYPES[kind.scales if exact or kind.scales == "U8" else "F16"]
        return cls(
            np.empty((num_blocks, kind.block_values * quantization.bits // 8), np.uint8),
            np.empty((num_blocks, groups), dtype),
            np.empty((num_blocks, groups), dtype) if quantization.mode == "affine" else None,
            largest_scale=_LARGEST_SCALES.get(kind.name, 0),
        )

    def fill(self, start: int, kind: str, blocks: Bytes) -> None:
        """Repack blocks of one kind, (number, bytes of a block), to the place that begins at block `start`."""
        stop = start + len(blocks)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by is_finite
            packed, scales, biases = _REPACKERS[kind](blocks)
            self.packed[start:stop], self.scales[start:stop] = packed, scales
            if self.biases is not None and biases is not None:
                self.biases[start:stop] = biases

    def is_finite(self) -> bool:
        """False when a scale or bias is infinite or not a number."""
        if self.biases is None:
            return int(self.scales.max()) <= self.largest_scale
        return bool(np.isfinite(self.scales).all() and np.isfinite(self.biases).all())


def _repack_q4_0(blocks: Bytes) -> Repacked:
    """value = d * (nibble - 8)."""
    scales = halves(blocks)
    return _ordered_nibbles(blocks[:, 2:]), scales, scales * np.float16(-8)


def _repack_q4_1(blocks: Bytes) -> Repacked:
    """value = d * nibble + m."""
    return _ordered_nibbles(blocks[:, 4:]), halves(blocks), halves(blocks, 2)


def _repack_q5_0(blocks: Bytes) -> Repacked:
    """value = d * (five bits - 16); the fifth bits stand apart."""
    scales = halves(blocks)
    return pack_bits(_five_bits(blocks[:, 2:]), 5), scales, scales * np.float16(-16)


def _repack_q5_1(blocks: Bytes) -> Repacked:
    """value = d * five bits + m."""
    return pack_bits(_five_bits(blocks[:, 4:]), 5), halves(blocks), halves(blocks, 2)


def _repack_q8_0(blocks: Bytes) -> Repacked:
    """value = d * signed byte; flipping the sign bit adds 128."""
    scales = halves(blocks)
    return blocks[:, 2:] ^ 0x80, scales, scales * np.float16(-128)


def _repack_q4_k(blocks: Bytes) -> Repacked:
    """value = (d * six bits) * nibble - dmin * six bits; 64 values share 32 bytes, the first 32 in the low halves."""
    scales, minimums = k_scales(blocks)
    return _ordered_nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(len(blocks), -1), scales, -minimums


def _repack_q5_k(blocks: Bytes) -> Repacked:
    """Like Q4_K, and bit g of 32 bytes is the fifth of group g."""
    scales, minimums = k_scales(blocks)
    low = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    high = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return pack_bits((low | high << 4).reshape(len(blocks), -1), 5), scales, -minimums


def _repack_iq4_nl(blocks: Bytes) -> Repacked:
    """value = d * a signed byte from a table of 16; in eight bits, as there is no line through them."""
    scales = halves(blocks)
    return _SHIFTED_CURVE[_nibbles(blocks[:, None, 2:])].reshape(-1, 32), scales, scales * np.float16(-128)


def _repack_iq4_xs(blocks: Bytes) -> Repacked:
    """Like IQ4_NL, with scales of six bits: four low ones by pairs, two high ones in one word."""
    high = blocks[:, 2:4].view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=-1).reshape(-1, 8)
    scales = halves(blocks).astype(np.float32) * ((low | high << 4).astype(np.float32) - 32)
    values = _SHIFTED_CURVE[_nibbles(blocks[:, 8:].reshape(-1, 8, 16))]
    return values.reshape(len(blocks), -1), scales, scales * np.float32(-128)


def _repack_tq1_0(blocks: Bytes) -> Repacked:
    """value = d * (-1, 0 or 1); five digits of base 3 in a byte as a fraction of 256."""
    parts = [
        (blocks[:, start:stop][:, None] * _POWERS_OF_3[:digits, None]).reshape(len(blocks), -1)
        for start, stop, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4))
    ]
    digits = np.concatenate(parts, axis=1).astype(np.uint16) * 3 >> 8
    return _ternary(digits.astype(np.uint8), halves(blocks, 52))


def _repack_tq2_0(blocks: Bytes) -> Repacked:
    """value = d * (two bits - 1); 128 values share 32 bytes."""
    quarters = blocks[:, :64].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    return _ternary(quarters.reshape(len(blocks), -1), halves(blocks, 64))


def _ternary(values: Bytes, scales: NDArray[np.float16]) -> Repacked:
    twice = np.repeat(scales, 2, axis=1)
    return pack_bits(values, 2), twice, -twice


def _repack_mxfp4(blocks: Bytes) -> Repacked:
    """The scale's byte and the four-bit floats are MLX's own."""
    return _ordered_nibbles(blocks[:, 1:]), blocks[:, :1], None


def _repack_nvfp4(blocks: Bytes) -> Repacked:
    """Scales are eight-bit floats without a sign, and the one that is no number stands for 0."""
    packed = _ordered_nibbles(blocks[:, 4:].reshape(-1, 4, 8))
    return packed.reshape(len(blocks), -1), np.where(blocks[:, :4] == _NAN_SCALE, 0, blocks[:, :4]), None


def _nibbles(packed: Bytes) -> Bytes:
    """(..., n) bytes to (..., 2, n) values: low halves, then high ones."""
    return np.stack([packed & 15, packed >> 4], axis=-2)


def _five_bits(blocks: Bytes) -> Bytes:
    """Four bytes of fifth bits, and sixteen of nibbles."""
    high = np.unpackbits(blocks[:, :4], axis=1, bitorder="little")
    return _nibbles(blocks[:, None, 4:]).reshape(-1, 32) | high << 4


def _ordered_nibbles(packed: Bytes) -> Bytes:
    """From value i beside value i + n in a byte to value i beside value i + 1; two bytes at a time."""
    pairs = np.ascontiguousarray(packed).view("<u2")
    low, high = pairs & 0x0F | pairs >> 4 & 0xF0, pairs >> 4 & 0x0F | pairs >> 8 & 0xF0
    return np.concatenate([low, high], axis=-1).astype(np.uint8)


_REPACKERS: dict[str, Callable[[Bytes], Repacked]] = {
    "Q4_0": _repack_q4_0,
    "Q4_1": _repack_q4_1,
    "Q5_0": _repack_q5_0,
    "Q5_1": _repack_q5_1,
    "Q8_0": _repack_q8_0,
    "Q4_K": _repack_q4_k,
    "Q5_K": _repack_q5_k,
    "IQ4_NL": _repack_iq4_nl,
    "IQ4_XS": _repack_iq4_xs,
    "TQ1_0": _repack_tq1_0,
    "TQ2_0": _repack_tq2_0,
    "MXFP4": _repack_mxfp4,
    "NVFP4": _repack_nvfp4,
}
