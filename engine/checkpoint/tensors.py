"""One tensor's place in a file, and the quantisation of a module. Knows no file format and no array library."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

QuantizationMode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a checkpoint, as its header describes it; every number has been checked against the file.

    name: as in a Hugging Face checkpoint
    dtype: a safetensors type ("F32", "BF16", "U32", ...) or a GGML block type ("Q4_0", "Q6_K", ...)
    shape: row-major, (out, in) for a matrix; of the unpacked values for GGML blocks
    offset: bytes from the file's start
    interleaved_heads: 0, or the heads in which row 2i belongs to row i, and row 2i + 1 to row i + half of the
        head, of a Hugging Face checkpoint; load_tensors brings them back into order
    is_negative_exponential: a Hugging Face checkpoint has x where -exp(x) is stored
    addend: number that load_tensors adds to every value, for a Hugging Face checkpoint has it so
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    num_bytes: int
    interleaved_heads: int = 0
    addend: float = 0.0
    is_negative_exponential: bool = False


@dataclass(frozen=True, slots=True)
class Quantization:
    """The quantisation of a module's weight. group_size: weights that share one scale."""

    bits: int
    group_size: int
    mode: QuantizationMode = "affine"
