"""Reads tensors of a checkpoint in groups that belong together, with values or as shapes alone."""

import re
from collections.abc import Sequence

import mlx.core as mx

from engine.checkpoint.checkpoint import Checkpoint, TensorEntry
from engine.checkpoint.ggml_types import BY_NAME
from engine.checkpoint.load import load_entry

Arrays = dict[str, mx.array]

_EXPERT = re.compile(r"(?P<prefix>.*\.experts)\.\d+\.(?P<rest>.+)")
_PACKED_PARTS = re.compile(r"\.(weight|scales|biases)$")
_BLOCK_PARTS = re.compile(r"_(blocks|scales)$")
MLX_TYPES = {"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32, "BOOL": mx.bool_} | {
    f"{kind}{bits}": getattr(mx, f"{name}{bits}")
    for kind, name in (("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}


def is_expert(name: str) -> bool:
    """True for a tensor of one expert among several, each listed by itself."""
    return _EXPERT.fullmatch(name) is not None


def path_of(name: str) -> str:
    """The module of a tensor that is one of a quantised matrix's arrays."""
    return _PACKED_PARTS.sub("", name)


class TensorReader:
    """Reads what open_checkpoint has opened: dense tensors, MLX's quantised arrays, blocks of a GGUF."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def group(self, name: str) -> str:
        """A key that tensors share which are read together: arrays of one quantised matrix, experts of a stack."""
        path = path_of(name)
        if path in self.checkpoint.quantization:
            name = path
        match = _EXPERT.fullmatch(name)
        return _BLOCK_PARTS.sub("", name) if match is None else f"{match['prefix']}.*.{match['rest']}"

    def outline(self, entries: Sequence[TensorEntry]) -> Arrays:
        """Arrays shaped as `load` gives them, without values: they are never evaluated."""
        return {name: array for entry in entries for name, array in _outline(entry).items()}

    def load(self, entries: Sequence[TensorEntry]) -> Arrays:
        """The arrays by the checkpoint's names. Raises CheckpointNotFound and CheckpointCorrupt."""
        return {name: array for entry in entries for name, array in load_entry(entry).items()}

    def is_void(self, entry: TensorEntry) -> bool:
        """True for a tensor that the architecture has not and that changes nothing."""
        return False


def _outline(entry: TensorEntry) -> Arrays:
    kind = BY_NAME.get(entry.dtype)
    if kind is None or (kind.quantization is None and not kind.expanded):
        return {entry.name: mx.zeros(entry.shape, MLX_TYPES[entry.dtype])}
    if kind.quantization is None:
        return {entry.name: mx.zeros(entry.shape)}
    how, (*rows, columns) = kind.quantization, entry.shape
    path = entry.name.removesuffix(".weight")
    scales = mx.zeros((*rows, columns // how.group_size), MLX_TYPES.get(kind.scales, mx.uint8))
    arrays = {f"{path}.weight": mx.zeros((*rows, columns * how.bits // 32), mx.uint32), f"{path}.scales": scales}
    return arrays | ({f"{path}.biases": scales} if how.mode == "affine" else {})
