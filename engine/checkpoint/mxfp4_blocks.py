"""Expert matrices in the mxfp4 blocks of OpenAI's gpt-oss files: `x_blocks` and `x_scales` instead of `x`.

blocks: (experts, rows, columns / 32, 16) uint8, two values a byte, the first in the low half
scales: (experts, rows, columns / 32) uint8, exponents of two, 127 above
MLX packs mxfp4 from the same bits, so they are taken over as they are. Rows of gate and up alternate.
"""

from collections.abc import Mapping

from engine.checkpoint.json_object import shown
from engine.checkpoint.tensors import Quantization, TensorEntry
from engine.errors import CheckpointCorrupt

_BLOCKS, _SCALES = "_blocks", "_scales"
_MXFP4 = Quantization(bits=4, group_size=32, mode="mxfp4")
# Modules that an MLX folder would have in place of one matrix.
_MODULES = {".experts.gate_up_proj": ("gate_proj", "up_proj"), ".experts.down_proj": ("down_proj",)}


def read_blocks(tensors: Mapping[str, TensorEntry]) -> dict[str, Quantization]:
    """The modules that are packed in this way, by path; {} where there are none.

    Raises CheckpointCorrupt when blocks and scales do not fit together.
    """
    quantization: dict[str, Quantization] = {}
    for name, blocks in tensors.items():
        matrix = name.removesuffix(_BLOCKS)
        found = [suffix for suffix in _MODULES if name.endswith(suffix + _BLOCKS)]
        if not found:
            continue
        _check(matrix, blocks, tensors.get(matrix + _SCALES))
        prefix = matrix.rpartition(".")[0]
        quantization |= {f"{prefix}.{module}": _MXFP4 for module in _MODULES[found[0]]}
    return quantization


def _check(matrix: str, blocks: TensorEntry, scales: TensorEntry | None) -> None:
    if blocks.dtype != "U8" or len(blocks.shape) != 4 or blocks.shape[-1] != _MXFP4.group_size // 2:
        raise CheckpointCorrupt(blocks.file.name, f"{shown(matrix)} has blocks that are not 16 bytes each")
    if scales is None or scales.dtype != "U8" or scales.shape != blocks.shape[:-1]:
        raise CheckpointCorrupt(blocks.file.name, f"{shown(matrix)} has not one scale per block")
