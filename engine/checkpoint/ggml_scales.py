"""The scales inside of GGML's blocks: float16 numbers, and six-bit multiples of them. Numpy only."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Arrays of uint8 and of float32. Bit by bit, numpy's stubs lose their types at most operators.
Bytes: TypeAlias = Any
Floats: TypeAlias = Any


def halves(blocks: Bytes, start: int = 0) -> NDArray[np.float16]:
    """The float16 at byte `start` of each block: (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2")


def floats(blocks: Bytes, start: int = 0) -> Floats:
    """These scales in float32."""
    return halves(blocks, start).astype(np.float32)


def k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """Scales and minimums of the eight groups of a Q4_K or Q5_K block, (blocks, 8) each; exact in float32.

    Twelve bytes hold eight scales and eight minimums of six bits: of the first four groups in a byte each, of the last
    four with their low halves together and their two high bits above the first ones'.
    """
    first, second, last = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, last & 15 | first >> 2 & 48], axis=1)
    minimums = np.concatenate([second & 63, last >> 4 | second >> 2 & 48], axis=1)
    return floats(blocks) * scales.astype(np.float32), floats(blocks, 2) * minimums.astype(np.float32)
