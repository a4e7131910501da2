"""The zero points of GPTQ checkpoints: version 1 stores them less one, in two dialects. Knows words; knows no files.

They differ where a zero point is 0. AutoGPTQ takes one from every number by itself, so that 0 becomes the largest;
GPTQModel takes one from every number of a 32-bit word at once, so that 0 also borrows one from the next number.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.checkpoint.bit_packing import unpack_bits
from engine.checkpoint.ggml_scales import Bytes, Floats

_BORROWING = "gptqmodel"
# Numbers of these widths do not straddle words.
_ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}
_SURE = 4.0  # standard deviations


def borrows(settings: Mapping[str, Any]) -> bool | None:
    """Whether the checkpoint's maker takes ones from whole words; None where the settings do not name the maker."""
    meta = settings.get("meta")
    makers = meta.get("quantizer") if isinstance(meta, dict) else None
    names = [makers] if isinstance(makers, str) else makers if isinstance(makers, list) else []
    return any(str(each).lower().startswith(_BORROWING) for each in names) if names else None


def stored_zeros(words: Bytes, bits: int) -> Bytes:
    """The numbers as they are stored: (groups, out) of (groups, words)."""
    return unpack_bits(np.ascontiguousarray(words).view(np.uint8), bits)


def zeros_one_by_one(words: Bytes, bits: int) -> Bytes:
    """One more than each number that is stored, and 0 after the largest."""
    return (stored_zeros(words, bits) + 1) & np.uint8((1 << bits) - 1)


def zeros_word_by_word(words: Bytes, bits: int) -> Bytes:
    """One more than each number, carried on to the next in its word."""
    if bits not in _ONES:
        return zeros_one_by_one(words, bits)
    return stored_zeros((words.view(np.uint32) + np.uint32(_ONES[bits])).astype(np.uint32), bits)


def fits_better(values: Bytes, groups: Bytes, these: Floats, those: Floats) -> bool:
    """True when the first of two readings surely puts the zero points nearer to the middle of the weights.

    values: (out, in) stored weights; groups: (in) the group of each column; these, those: (out, groups)
    """
    differs = these != those
    rows = np.flatnonzero(differs.any(axis=1))
    sums = np.zeros((len(rows), these.shape[1]), np.float32)
    np.add.at(sums.T, groups, values[rows].astype(np.float32).T)
    means = sums / np.maximum(np.bincount(groups, minlength=these.shape[1]), 1)
    gain = (np.abs(those[rows] - means) - np.abs(these[rows] - means))[differs[rows]]
    return bool(gain.sum() > _SURE * np.sqrt(max(len(gain), 1)))
