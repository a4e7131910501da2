"""Checkpoints that GPTQ and AWQ have quantised, as MLX's packed arrays, value for value. Knows both layouts.

GPTQ (AutoGPTQ, GPTQModel): qweight (in * bits / 32, out), qzeros (groups, out * bits / 32), scales (groups, out), g_idx
(in); bits from a word's low end up, down a column. Version 1 stores zero points less one: see gptq_zeros.py.
AWQ (AutoAWQ, "gemm"): qweight (in, out / 8), qzeros (groups, out / 8), scales (groups, out); eight columns of a word in
the order 0 2 4 6 1 3 5 7.
In both value = scale * (q - zero); MLX's bias is -scale * zero, in float32 where float16 cannot hold it exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from engine.checkpoint.bit_packing import pack_bits, unpack_bits
from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.ggml_scales import Bytes, Floats
from engine.checkpoint.json_object import shown
from engine.checkpoint.load import load_entry
from engine.checkpoint.tensors import Quantization, TensorEntry
from engine.conversion.gptq_zeros import borrows, fits_better, stored_zeros, zeros_one_by_one, zeros_word_by_word
from engine.conversion.tensor_reader import Arrays, TensorReader
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

PARTS = ("qweight", "qzeros", "scales", "g_idx")
METHODS = ("gptq", "awq")
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
_GROUP_SIZES = (128, 64, 32)
_BITS = {"gptq": (2, 3, 4, 8), "awq": (4,)}


@dataclass(frozen=True, slots=True)
class Scheme:
    """The quantisation of a GPTQ or AWQ checkpoint.

    group_size: None is one group per row
    less_one: zero points are stored less one
    borrows: and ones are taken from whole words; None where nothing tells
    """

    method: str
    bits: int
    group_size: int | None
    less_one: bool = False
    borrows: bool | None = None

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> "Scheme":
        """From config.json's quantization_config. Raises CheckpointUnsupported."""
        method = settings.get("quant_method")
        bits = settings.get("bits", settings.get("w_bit"))
        if method not in METHODS:
            raise CheckpointUnsupported("quantization_config.quant_method", shown(method), ", ".join(METHODS))
        if bits not in _BITS[method]:
            raise CheckpointUnsupported("quantization_config.bits", bits, ", ".join(map(str, _BITS[method])))
        group_size = settings.get("group_size", settings.get("q_group_size", 128))
        if type(group_size) is not int or (group_size != -1 and group_size % 32) or group_size == 0:
            raise CheckpointUnsupported("quantization_config.group_size", shown(group_size), "-1, or a multiple of 32")
        version = str(settings.get("version", "gemm")).lower()
        if method == "awq" and version != "gemm":
            raise CheckpointUnsupported("quantization_config.version", version, "gemm")
        form = settings.get("checkpoint_format", "gptq")
        if method == "gptq" and form not in ("gptq", "gptq_v2"):
            raise CheckpointUnsupported("quantization_config.checkpoint_format", shown(form), "gptq, gptq_v2")
        less_one = method == "gptq" and form == "gptq"
        return cls(method, bits, None if group_size == -1 else group_size, less_one, borrows(settings))


class ForeignReader(TensorReader):
    """Reads a checkpoint of GPTQ or AWQ. Raises CheckpointUnsupported and CheckpointCorrupt.

    expand: matrices whose columns are grouped in an order of their own (GPTQ's desc_act) become float32, as MLX has no
        layout for them; otherwise they are refused
    """

    def __init__(self, checkpoint: Checkpoint, *, expand: bool) -> None:
        self._scheme = Scheme.read(checkpoint.config["quantization_config"])
        self._expand = expand
        paths = [name.removesuffix(".qweight") for name in checkpoint.tensors if name.endswith(".qweight")]
        self._paths = frozenset(paths)
        self._ordered: dict[str, bool] = {}
        self._halves: dict[str, bool] = {}
        self._borrows: dict[str, bool] = {}
        quantization = {path: how for path in paths if (how := self._inspect(path, checkpoint)) is not None}
        config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
        super().__init__(replace(checkpoint, config=config, quantization=quantization))

    def group(self, name: str) -> str:
        """Tensors of one matrix are read together."""
        path, _, part = name.rpartition(".")
        return path if path in self._paths and part in PARTS else super().group(name)

    def outline(self, entries: Sequence[TensorEntry]) -> Arrays:
        """Arrays shaped as `load` gives them, without values."""
        parts = _parts(entries)
        if "qweight" not in parts:
            return super().outline(entries)
        path = entries[0].name.rpartition(".")[0]
        rows, columns = _shape(self._scheme, parts["qweight"])
        if not self._ordered[path]:
            return {f"{path}.weight": mx.zeros((rows, columns))}
        how = self.checkpoint.quantization[path]
        scales = mx.zeros((rows, columns // how.group_size), mx.float16 if self._halves[path] else mx.float32)
        weight = mx.zeros((rows, columns * how.bits // 32), mx.uint32)
        return {f"{path}.weight": weight, f"{path}.scales": scales, f"{path}.biases": scales}

    def load(self, entries: Sequence[TensorEntry]) -> Arrays:
        """The matrix in MLX's layout, or expanded."""
        parts = _parts(entries)
        if "qweight" not in parts:
            return super().load(entries)
        path = entries[0].name.rpartition(".")[0]
        values, (scales, zeros) = self._values(parts["qweight"]), self._scales(parts)
        if not self._ordered[path]:
            groups = _array(parts["g_idx"])
            expanded = scales[:, groups] * (values.astype(np.float32) - zeros[:, groups])
            return {f"{path}.weight": mx.array(expanded)}
        how = self.checkpoint.quantization[path]
        repeats = values.shape[1] // how.group_size // scales.shape[1]
        dtype = np.float16 if self._halves[path] else np.float32
        scales, biases = (np.repeat(each, repeats, axis=1).astype(dtype) for each in (scales, -scales * zeros))
        packed = np.ascontiguousarray(pack_bits(values, how.bits)).view("<u4")
        return {
            f"{path}.weight": mx.array(packed),
            f"{path}.scales": mx.array(scales),
            f"{path}.biases": mx.array(biases),
        }

    def is_void(self, entry: TensorEntry) -> bool:
        """True for a bias of zeros, which AutoGPTQ adds to every matrix that it packs."""
        path, _, part = entry.name.rpartition(".")
        if path not in self._paths or part != "bias":
            return False
        return not mx.any(load_entry(entry)[entry.name]).item()

    def _inspect(self, path: str, checkpoint: Checkpoint) -> Quantization | None:
        parts = {part: entry for part in PARTS if (entry := checkpoint.tensors.get(f"{path}.{part}")) is not None}
        for part in PARTS[:3]:
            if part not in parts:
                raise CheckpointCorrupt(checkpoint.path.name, f"{shown(path)} has a qweight, but no {part}")
        rows, columns = _shape(self._scheme, parts["qweight"])
        group_size = self._scheme.group_size or columns
        if parts["scales"].shape != (-(-columns // group_size), rows):
            raise CheckpointCorrupt(checkpoint.path.name, f"{shown(path)} has scales of another shape than its groups")
        fitting = next((each for each in _GROUP_SIZES if group_size % each == 0 and columns % each == 0), None)
        self._borrows[path] = self._finds_borrows(parts, group_size)
        scales, zeros = self._scales(parts)
        biases = scales * zeros
        with np.errstate(over="ignore"):
            self._halves[path] = bool((biases.astype(np.float16).astype(np.float32) == biases).all())
        self._ordered[path] = self._is_ordered(parts, group_size) and fitting is not None
        if not self._ordered[path] and not self._expand:
            raise CheckpointUnsupported(
                "quantization_config.desc_act",
                True,
                f"groups of neighbouring columns, as MLX packs them; --dequantize expands {path} and the like",
            )
        return Quantization(self._scheme.bits, fitting) if self._ordered[path] and fitting is not None else None

    def _is_ordered(self, parts: Mapping[str, TensorEntry], group_size: int) -> bool:
        if "g_idx" not in parts:
            return True
        groups = _array(parts["g_idx"])
        return bool((groups == np.arange(len(groups)) // group_size).all())

    def _values(self, entry: TensorEntry) -> Bytes:
        """(out, in) numbers."""
        words = _array(entry)
        if self._scheme.method == "gptq":
            return unpack_bits(np.ascontiguousarray(words.T).view(np.uint8), self._scheme.bits)
        return np.ascontiguousarray(_in_awq_order(words).T)

    def _finds_borrows(self, parts: Mapping[str, TensorEntry], group_size: int) -> bool:
        """Which way zero points were made less by one: what the settings say, else what the weights say."""
        scheme, words = self._scheme, _array(parts["qzeros"])
        if not scheme.less_one or scheme.borrows is not None:
            return bool(scheme.borrows)
        each, whole = zeros_one_by_one(words, scheme.bits), zeros_word_by_word(words, scheme.bits)
        if (each == whole).all():
            return False
        values = self._values(parts["qweight"])
        groups = _array(parts["g_idx"]) if "g_idx" in parts else np.arange(values.shape[1]) // group_size
        return fits_better(values, groups, whole.T.astype(np.float32), each.T.astype(np.float32))

    def _scales(self, parts: Mapping[str, TensorEntry]) -> tuple[Floats, Floats]:
        """Scales and zero points, (out, groups) each."""
        words, path = _array(parts["qzeros"]), parts["qzeros"].name.rpartition(".")[0]
        if self._scheme.method != "gptq":
            zeros = _in_awq_order(words)
        elif not self._scheme.less_one:
            zeros = stored_zeros(words, self._scheme.bits)
        else:
            zeros = (zeros_word_by_word if self._borrows[path] else zeros_one_by_one)(words, self._scheme.bits)
        scales = _array(parts["scales"]).astype(np.float32)
        return scales.T, zeros.astype(np.float32).T


def _parts(entries: Sequence[TensorEntry]) -> dict[str, TensorEntry]:
    return {entry.name.rpartition(".")[2]: entry for entry in entries}


def _shape(scheme: Scheme, qweight: TensorEntry) -> tuple[int, int]:
    """Rows (out) and columns (in)."""
    if qweight.dtype not in ("I32", "U32") or len(qweight.shape) != 2:
        raise CheckpointCorrupt(qweight.file.name, f"{shown(qweight.name)} is not a matrix of 32-bit words")
    first, second = qweight.shape
    return (second, first * 32 // scheme.bits) if scheme.method == "gptq" else (second * 8, first)


def _array(entry: TensorEntry) -> Bytes:
    return np.array(load_entry(entry)[entry.name].astype(_NUMBERS.get(entry.dtype, mx.float32)))


_NUMBERS = {"I32": mx.int32, "U32": mx.uint32, "I64": mx.int64}


def _in_awq_order(words: Bytes) -> Bytes:
    """(n, m) words to (n, 8 m) values."""
    nibbles = unpack_bits(np.ascontiguousarray(words).view(np.uint8), 4).reshape(len(words), -1, 8)
    values = np.empty_like(nibbles)
    values[..., _AWQ_ORDER] = nibbles
    return values.reshape(len(words), -1)
