"""Expand GGML's blocks that MLX cannot pack: those with a scale per 16 values or 8, and those of vectors from a table.

Every value is the float32 that ggml's own dequantiser gives, to the last bit. Knows no file and no mlx.
Source: ggml-quants.c and ggml-common.h of ggml.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.checkpoint.ggml_scales import Bytes, Floats, floats

# ggml's tables of vectors, one array per type, written by scripts/make_ggml_grids. The numbers are ggml's: MIT licence,
# Copyright (c) 2023-2026 The ggml authors.
_GRIDS = Path(__file__).with_name("ggml_grids.npz")
_EIGHT = np.arange(8, dtype=np.uint8)
_DELTA = np.float32(0.125)


def expand(kind: str, blocks: Bytes) -> Floats:
    """The values of blocks of one kind: (number, bytes of a block) to (number, 256)."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by the caller
        return _EXPANDERS[kind](blocks).reshape(len(blocks), -1)


def _expand_q2_k(blocks: Bytes) -> Floats:
    """value = (d * four bits) * two bits - dmin * four bits, per 16 values; 128 values share 32 bytes."""
    scales = floats(blocks, 80) * (blocks[:, :16] & 15).astype(np.float32)
    minimums = floats(blocks, 82) * (blocks[:, :16] >> 4).astype(np.float32)
    values = _pairs_of_bits(blocks[:, 16:80]).reshape(-1, 16, 16).astype(np.float32)
    return scales[..., None] * values - minimums[..., None]


def _expand_q3_k(blocks: Bytes) -> Floats:
    """value = d * (six bits - 32) * (three bits - 4), per 16 values; the highest bits stand apart."""
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    four = np.concatenate([low & 15, low >> 4], axis=1)
    two = (high[:, None] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3).reshape(-1, 16)
    scales = floats(blocks, 108) * ((four | two << 4).astype(np.float32) - 32)
    values = _pairs_of_bits(blocks[:, 32:96]).reshape(-1, 256).astype(np.float32)
    highest = (blocks[:, None, :32] >> _EIGHT[:, None] & 1).reshape(-1, 256)
    return scales[..., None] * (values - (4 - 4 * highest.astype(np.float32))).reshape(-1, 16, 16)


def _expand_q6_k(blocks: Bytes) -> Floats:
    """value = d * signed byte * (six bits - 32), per 16 values; four low bits and two high ones stand apart."""
    scales = floats(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    halves = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([halves & 15, halves >> 4], axis=2).reshape(-1, 256)
    high = _pairs_of_bits(blocks[:, 128:192]).reshape(-1, 256)
    return scales[..., None] * ((low | high << 4).astype(np.float32) - 32).reshape(-1, 16, 16)


def _expand_iq2_xxs(blocks: Bytes) -> Floats:
    """Per 32 values: four numbers of vectors, four of sign patterns, four bits of scale."""
    words = _words(blocks[:, 2:66]).reshape(-1, 8, 2)
    scales = floats(blocks) * (np.float32(0.5) + (words[..., 1] >> 28).astype(np.float32)) * np.float32(0.25)
    numbers = np.ascontiguousarray(words[..., :1]).view(np.uint8)
    return scales[..., None, None] * _vectors("iq2_xxs", numbers) * _signs(_sign_patterns(words[..., 1]))


def _expand_iq2_xs(blocks: Bytes) -> Floats:
    """Per 8 values: nine bits for the vector, seven for the signs; per 16: four bits of scale."""
    numbers = np.ascontiguousarray(blocks[:, 2:66]).view("<u2").reshape(-1, 16, 2)
    scales = _quarter_scales(floats(blocks), blocks[:, 66:74])
    signs = _signs(_with_parity((numbers >> 9).astype(np.uint8)))
    return scales[..., None, None] * _vectors("iq2_xs", numbers & 511) * signs


def _expand_iq2_s(blocks: Bytes) -> Floats:
    """Per 8 values: ten bits for the vector, eight for the signs; per 16: four bits of scale."""
    high = blocks[:, 66:74, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3
    numbers = (blocks[:, 2:34] | high.reshape(-1, 32).astype(np.uint16) << 8).reshape(-1, 16, 2)
    scales = _quarter_scales(floats(blocks), blocks[:, 74:82])
    return scales[..., None, None] * _vectors("iq2_s", numbers) * _signs(blocks[:, 34:66].reshape(-1, 16, 2))


def _expand_iq3_xxs(blocks: Bytes) -> Floats:
    """Per 4 values a number of a vector; per 32: four sign patterns and four bits of scale."""
    words = _words(blocks[:, 66:98])
    scales = floats(blocks) * (np.float32(0.5) + (words >> 28).astype(np.float32)) * np.float32(0.5)
    vectors = _vectors("iq3_xxs", blocks[:, 2:66]).reshape(-1, 8, 4, 8)
    return scales[..., None, None] * vectors * _signs(_sign_patterns(words))


def _expand_iq3_s(blocks: Bytes) -> Floats:
    """Per 4 values nine bits for the vector; per 8 a byte of signs; per 32: four bits of scale."""
    high = (blocks[:, 66:74, None] >> _EIGHT & 1).reshape(-1, 64)
    numbers = blocks[:, 2:66] | high.astype(np.uint16) << 8
    scales = floats(blocks) * (1 + 2 * _halves_of_bytes(blocks[:, 106:110]).astype(np.float32))
    signs = _signs(blocks[:, 74:106].reshape(-1, 8, 4))
    return scales[..., None, None] * _vectors("iq3_s", numbers).reshape(-1, 8, 4, 8) * signs


def _expand_iq1_s(blocks: Bytes) -> Floats:
    """value = d * odd number to 15 * (-1, 0 or 1, plus or minus an eighth); eleven bits per vector of 8."""
    high = np.ascontiguousarray(blocks[:, 34:50]).view("<u2")
    scales = floats(blocks) * (2 * (high >> 12 & 7) + 1).astype(np.float32)
    delta = np.where(high & 0x8000, -_DELTA, _DELTA)
    above = high[..., None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7
    numbers = blocks[:, 2:34].reshape(-1, 8, 4) | above << 8
    return scales[..., None, None] * (_vectors("iq1_s", numbers) + delta[..., None, None])


def _expand_iq1_m(blocks: Bytes) -> Floats:
    """Like IQ1_S, with three bits of scale per 16 values; d lies in the upper nibbles of the four words of scales."""
    words = np.ascontiguousarray(blocks[:, 48:56]).view("<u2")
    quarters = (words & 0xF000) >> np.array([12, 8, 4, 0], np.uint16)
    d = np.bitwise_or.reduce(quarters, axis=1, keepdims=True).view("<f2").astype(np.float32)
    steps = (words[..., None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7).reshape(-1, 16)
    scales = (d * (2 * steps + 1).astype(np.float32))[..., None, None]
    high = np.stack([blocks[:, 32:48], blocks[:, 32:48] >> 4], axis=-1)
    delta = np.where(high & 8, -_DELTA, _DELTA)[..., None]
    numbers = blocks[:, :32].reshape(-1, 16, 2) | (high & 7).astype(np.uint16) << 8
    return scales * (_vectors("iq1_s", numbers) + delta)


def _pairs_of_bits(packed: Bytes) -> Bytes:
    """64 bytes to 256 values: four times 32 from each 32 bytes, low bits first."""
    return packed.reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3


def _words(packed: Bytes) -> NDArray[np.uint32]:
    return np.ascontiguousarray(packed).view("<u4")


def _halves_of_bytes(packed: Bytes) -> Bytes:
    """(blocks, n) bytes to (blocks, 2n) values: each byte's low half, then its high one."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def _quarter_scales(d: Floats, packed: Bytes) -> Floats:
    return d * (np.float32(0.5) + _halves_of_bytes(packed).astype(np.float32)) * np.float32(0.25)


def _sign_patterns(words: NDArray[np.uint32]) -> Bytes:
    """Four numbers of seven bits from the low bits of each word."""
    return _with_parity((words[..., None] >> np.arange(0, 28, 7, dtype=np.uint32) & 127).astype(np.uint8))


def _with_parity(seven: Bytes) -> Bytes:
    """Seven signs and an eighth that makes the number of minus signs even."""
    folded = seven ^ seven >> 4
    folded ^= folded >> 2
    folded ^= folded >> 1
    return seven | folded << 7


def _signs(patterns: Bytes) -> Floats:
    """(...) bytes to (..., 8) factors: -1 where the bit is set."""
    return np.where(patterns[..., None] >> _EIGHT & 1, np.float32(-1), np.float32(1))


def _vectors(table: str, numbers: NDArray[np.integer]) -> Floats:
    return _table(table)[numbers]


@cache
def _table(name: str) -> Floats:
    with np.load(_GRIDS, allow_pickle=False) as tables:
        vectors: Floats = tables[name].astype(np.float32)
    return vectors


_EXPANDERS: dict[str, Callable[[Bytes], Floats]] = {
    "Q2_K": _expand_q2_k,
    "Q3_K": _expand_q3_k,
    "Q6_K": _expand_q6_k,
    "IQ2_XXS": _expand_iq2_xxs,
    "IQ2_XS": _expand_iq2_xs,
    "IQ2_S": _expand_iq2_s,
    "IQ3_XXS": _expand_iq3_xxs,
    "IQ3_S": _expand_iq3_s,
    "IQ1_S": _expand_iq1_s,
    "IQ1_M": _expand_iq1_m,
}
