"""The device that runs the model, with its precision and libraries; the only place that asks."""

import ctypes
import sys
from dataclasses import dataclass, field
from typing import Literal

from engine import blas
from engine.errors import KernelsUnavailable
from engine.settings import KernelChoice

_BLAS = blas.preload()  # must precede the first import of mlx, or the bundled BLAS is used

import mlx.core as mx  # noqa: E402  # after the BLAS, see above

from engine.native.kernels import Kernels  # noqa: E402
from engine.native.load import load_kernels  # noqa: E402  # loads mlx too

_CPU_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Device:
    """The device of arrays and of computing.

    dtype: precision of activations and dense weights; None keeps the checkpoint's own
    blas: library behind dense products on the CPU
    kernels: name of the native kernels in use, or why there are none; "" on Metal
    native: the kernels themselves
    expands: quantised weights become dense float32 where no kernel reads them
    """

    kind: Literal["metal", "cpu"]
    dtype: mx.Dtype | None
    blas: str
    kernels: str
    native: Kernels | None = field(default=None, compare=False)
    expands: bool = False

    def in_precision(self, array: mx.array) -> mx.array:
        """A float array in the precision of this device."""
        return array if self.dtype is None else array.astype(self.dtype)

    @property
    def dtype_name(self) -> str:
        """Precision of activations, in words."""
        return "as published" if self.dtype is None else str(self.dtype).removeprefix("mlx.core.")

    @property
    def advice(self) -> str:
        """Advice that would make this device faster, in one sentence; empty when there is none."""
        if self.native is not None:
            return ""
        if self.kind == "cpu" and "compiler" in self.kernels:
            return "MLX's own CPU operations are slow: install a C++ compiler (apt install g++), and start again."
        if self.kind == "cpu" and self.blas == "bundled":
            return "Dense products use the slow bundled BLAS: install OpenBLAS (apt install libopenblas0-pthread)."
        return ""


def prepare_device(kernels: KernelChoice = "native", threads: int | None = None) -> Device:
    """Choose Metal where there is one, else the CPU, and set MLX up for it.

    The CPU backend computes 16-bit floats in software and keeps only 32 MB of freed buffers: activations are float32
    there and the cache is raised.

    kernels: for the CPU; without a compiler there are none, and everything works without them
    threads: of the kernels; None is one per usable CPU
    """
    if mx.metal.is_available():
        return Device("metal", None, "", "")
    mx.set_default_device(mx.Device(mx.cpu))
    mx.set_cache_limit(_CPU_CACHE_BYTES)
    if kernels == "off":
        return Device("cpu", mx.float32, _BLAS, "off", expands=True)
    try:
        native = load_kernels(kernels, threads=threads)
    except KernelsUnavailable as unavailable:
        return Device("cpu", mx.float32, _BLAS, f"none: {unavailable.reason}", expands=True)
    return Device("cpu", mx.float32, _BLAS, f"{native.path}, {native.threads()} threads", native, expands=True)


def return_freed_memory() -> None:
    """Give the system what MLX and the C library keep of freed memory."""
    mx.clear_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, other libraries need it less
        if trim is not None:
            trim(0)
