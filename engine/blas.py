"""Find a fast BLAS for MLX's CPU backend and load it first. Imports no mlx.

The Linux wheel bundles the reference BLAS, which is about 70 times slower at matrix products. Symbols of a library
loaded globally before mlx take precedence over the bundled ones.
"""

import ctypes
import ctypes.util
import sys

_CANDIDATES = ("libopenblas.so.0", "libopenblas.so")


def preload() -> str:
    """Load OpenBLAS where the system has it, and name the BLAS that MLX will use on the CPU.

    Returns "Accelerate", "OpenBLAS" or "bundled". Loading is possible only before mlx is first imported.
    """
    if sys.platform == "darwin":
        return "Accelerate"
    if "mlx.core" in sys.modules:
        return "OpenBLAS" if _already_loaded() else "bundled"
    return "OpenBLAS" if any(_load(name) for name in _CANDIDATES) else "bundled"


def _load(name: str) -> bool:
    try:
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _already_loaded() -> bool:
    return hasattr(ctypes.CDLL(None), "openblas_get_num_threads")
