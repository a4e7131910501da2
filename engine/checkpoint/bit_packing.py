"""Values of a few bits one after the other in bytes, from the low bit up: MLX's order, and GPTQ's. Numpy only."""

import numpy as np

from engine.checkpoint.ggml_scales import Bytes

_RUN = 8  # values that end at a byte's end for every width


def pack_bits(values: Bytes, bits: int) -> Bytes:
    """Pack (..., n) values of `bits` bits into (..., n * bits / 8) bytes; n is a multiple of 8."""
    if bits == 8:
        return values
    if bits == 4:
        return values[..., ::2] | values[..., 1::2] << 4
    runs = values.reshape(*values.shape[:-1], -1, _RUN)
    words = runs[..., 0].astype("<u8")
    for place in range(1, _RUN):
        words |= runs[..., place].astype("<u8") << np.uint64(bits * place)
    packed = words[..., None].view(np.uint8)[..., :bits]
    return np.ascontiguousarray(packed).reshape(*values.shape[:-1], -1)


def unpack_bits(packed: Bytes, bits: int) -> Bytes:
    """Take (..., m) bytes apart into (..., m * 8 / bits) values; m is a multiple of `bits`."""
    if bits == 8:
        return packed
    runs = packed.reshape(*packed.shape[:-1], -1, bits)
    words = np.zeros((*runs.shape[:-1], _RUN), np.uint8)
    words[..., :bits] = runs
    shifts = np.arange(0, bits * _RUN, bits, dtype=np.uint64)
    values = words.view("<u8") >> shifts & np.uint64((1 << bits) - 1)
    return values.astype(np.uint8).reshape(*packed.shape[:-1], -1)
