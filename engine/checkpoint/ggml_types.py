"""GGML's tensor types by number: their names, their blocks, and what becomes of them.

A type whose blocks share one scale (and one minimum) among 32 values or more is repacked into MLX's layout without a
value changing. The others, with a scale for each 16 values or 8, or values from a table, are expanded to floats.
Source: ggml's gguf.md, ggml.h and ggml-common.h. A block is the smallest run of a row that is stored together.
"""

from dataclasses import dataclass
from typing import Literal

from engine.checkpoint.tensors import Quantization


@dataclass(frozen=True, slots=True)
class GGMLType:
    """A type that can be loaded. block_values: consecutive values of a row that share block_bytes bytes.

    quantization: how it is packed after loading; None for what is dense or expanded
    scales: the type that holds the packed scales exactly; "U8" for the scales of MXFP4 and NVFP4
    expanded: it is packed here, and becomes float32
    """

    name: str
    block_values: int
    block_bytes: int
    quantization: Quantization | None = None
    scales: Literal["F16", "F32", "U8"] = "F16"
    expanded: bool = False


def _affine(bits: int, group_size: int = 32) -> Quantization:
    return Quantization(bits=bits, group_size=group_size)


LOADABLE = {
    0: GGMLType("F32", 1, 4),
    1: GGMLType("F16", 1, 2),
    2: GGMLType("Q4_0", 32, 18, _affine(4)),
    3: GGMLType("Q4_1", 32, 20, _affine(4)),
    6: GGMLType("Q5_0", 32, 22, _affine(5)),
    7: GGMLType("Q5_1", 32, 24, _affine(5)),
    8: GGMLType("Q8_0", 32, 34, _affine(8)),
    10: GGMLType("Q2_K", 256, 84, expanded=True),
    11: GGMLType("Q3_K", 256, 110, expanded=True),
    12: GGMLType("Q4_K", 256, 144, _affine(4), "F32"),
    13: GGMLType("Q5_K", 256, 176, _affine(5), "F32"),
    14: GGMLType("Q6_K", 256, 210, expanded=True),
    16: GGMLType("IQ2_XXS", 256, 66, expanded=True),
    17: GGMLType("IQ2_XS", 256, 74, expanded=True),
    18: GGMLType("IQ3_XXS", 256, 98, expanded=True),
    19: GGMLType("IQ1_S", 256, 50, expanded=True),
    20: GGMLType("IQ4_NL", 32, 18, _affine(8)),
    21: GGMLType("IQ3_S", 256, 110, expanded=True),
    22: GGMLType("IQ2_S", 256, 82, expanded=True),
    23: GGMLType("IQ4_XS", 256, 136, _affine(8), "F32"),
    29: GGMLType("IQ1_M", 256, 56, expanded=True),
    30: GGMLType("BF16", 1, 2),
    34: GGMLType("TQ1_0", 256, 54, _affine(2, 128)),
    35: GGMLType("TQ2_0", 256, 66, _affine(2, 128)),
    39: GGMLType("MXFP4", 32, 17, Quantization(bits=4, group_size=32, mode="mxfp4"), "U8"),
    40: GGMLType("NVFP4", 64, 36, Quantization(bits=4, group_size=16, mode="nvfp4"), "U8"),
}
BY_NAME = {each.name: each for each in LOADABLE.values()}

# Known, not loadable: named in the refusal.
OTHER_NAMES = {
    9: "Q8_1",
    15: "Q8_K",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    41: "Q1_0",
}
