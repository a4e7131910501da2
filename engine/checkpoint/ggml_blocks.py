"""Bring GGML's blocks into MLX's affine packed layout, value for value, in numpy. Knows no file and no mlx.

MLX packs a row's values from a word's low bits upwards, and value = scale * packed + bias with one scale and bias per
32 values. GGML keeps scale and values of 32 together, and the first 16 of them in the low halves of 16 bytes.
Source: ggml-quants.c and ggml-common.h of ggml.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Halves = NDArray[np.float16]
_SCALE_BYTES = 2


@dataclass(frozen=True, slots=True)
class PackedBlocks:
    """MLX's three arrays for a run of blocks, filled piece by piece.

    packed: (blocks, bytes of 32 values); scales, biases: (blocks,)
    """

    packed: Bytes
    scales: Halves
    biases: Halves

    @classmethod
    def empty(cls, num_blocks: int, bits: int) -> "PackedBlocks":
        """Room for `num_blocks` blocks of 32 values."""
        return cls(
            np.empty((num_blocks, 4 * bits), np.uint8),
            np.empty(num_blocks, np.float16),
            np.empty(num_blocks, np.float16),
        )

    def part(self, start: int, stop: int) -> "PackedBlocks":
        """The blocks from start to stop, sharing memory."""
        return PackedBlocks(self.packed[start:stop], self.scales[start:stop], self.biases[start:stop])

    def is_finite(self) -> bool:
        """False when a scale or bias is infinite or not a number."""
        return bool(np.isfinite(self.scales).all() and np.isfinite(self.biases).all())


def repack(kind: str, blocks: Bytes, into: PackedBlocks) -> None:
    """Fill `into` from blocks of one kind ("Q4_0", "Q4_1" or "Q8_0"); blocks: (number, bytes of a block)."""
    _REPACKERS[kind](blocks, into)


def _repack_q4_0(blocks: Bytes, into: PackedBlocks) -> None:
    """value = d * (nibble - 8)."""
    into.scales[:] = _halves(blocks)
    _multiply(into.scales, -8.0, into.biases)
    _order_nibbles(blocks[:, _SCALE_BYTES:], into.packed)


def _repack_q4_1(blocks: Bytes, into: PackedBlocks) -> None:
    """value = d * nibble + m."""
    into.scales[:] = _halves(blocks)
    into.biases[:] = _halves(blocks[:, _SCALE_BYTES:])
    _order_nibbles(blocks[:, 2 * _SCALE_BYTES :], into.packed)


def _repack_q8_0(blocks: Bytes, into: PackedBlocks) -> None:
    """value = d * signed byte; flipping the sign bit adds 128."""
    into.scales[:] = _halves(blocks)
    _multiply(into.scales, -128.0, into.biases)
    np.bitwise_xor(blocks[:, _SCALE_BYTES:], 0x80, out=into.packed)


def _halves(blocks: Bytes) -> Halves:
    """The float16 at the beginning of each block."""
    return blocks[:, :_SCALE_BYTES].view("<f2")[:, 0]


def _multiply(scales: Halves, by: float, into: Halves) -> None:
    """A power of two keeps float16 exact; what overflows becomes infinite, and PackedBlocks.is_finite reports it."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(scales, np.float16(by), out=into)


def _order_nibbles(nibbles: Bytes, into: Bytes) -> None:
    """From value i beside value i + 16 in a byte to value i beside value i + 1; two bytes at a time."""
    pairs = nibbles.view("<u2")
    into[:, :8] = pairs & 0x0F | pairs >> 4 & 0xF0
    into[:, 8:] = pairs >> 4 & 0x0F | pairs >> 8 & 0xF0


_REPACKERS: dict[str, Callable[[Bytes, PackedBlocks], None]] = {
    "Q4_0": _repack_q4_0,
    "Q4_1": _repack_q4_1,
    "Q8_0": _repack_q8_0,
}
