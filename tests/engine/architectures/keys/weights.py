"""Random weights from a tensor's name and shape, with numpy alone. Knows no model and no configuration."""

import zlib

import numpy as np
from numpy.typing import NDArray

SPREAD = 0.2


def tensor(name: str, shape: list[int]) -> NDArray[np.float32]:
    """Normal numbers that depend on the name alone; scales of norms are around one."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32) * np.float32(SPREAD)
    scales = len(shape) == 1 and name.endswith("weight")
    return noise + np.float32(1) if scales else noise
