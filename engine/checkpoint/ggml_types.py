"""GGML's tensor types by number: their names, and the blocks of those that can be loaded.

Source: ggml's gguf.md and ggml.h. A block is the smallest run of a row that is stored together.
"""

from dataclasses import dataclass

from engine.checkpoint.tensors import Quantization


@dataclass(frozen=True, slots=True)
class GGMLType:
    """A type that can be loaded. block_values: consecutive values of a row that share block_bytes bytes."""

    name: str
    block_values: int
    block_bytes: int
    quantization: Quantization | None = None


LOADABLE = {
    0: GGMLType("F32", 1, 4),
    1: GGMLType("F16", 1, 2),
    2: GGMLType("Q4_0", 32, 18, Quantization(bits=4, group_size=32)),
    3: GGMLType("Q4_1", 32, 20, Quantization(bits=4, group_size=32)),
    8: GGMLType("Q8_0", 32, 34, Quantization(bits=8, group_size=32)),
    30: GGMLType("BF16", 1, 2),
}
BY_NAME = {each.name: each for each in LOADABLE.values()}

# Known, not loadable: named in the refusal.
OTHER_NAMES = {
    6: "Q5_0",
    7: "Q5_1",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}
