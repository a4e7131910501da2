"""Load the kernels into this process, or say why there are none. Decides once, for one thread count and one path."""

import importlib.machinery
import importlib.util
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core  # noqa: F401  # the kernels' module needs its library and its types

from engine.errors import KernelsUnavailable
from engine.native.build import MODULE_NAME, Target, build
from engine.native.kernels import Kernels

MLX_VERSION = "0.32.4"
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def load_kernels(target: Target = "native", *, threads: int | None = None, checked: bool = False) -> Kernels:
    """The extension module, compiled first where the cache does not have it.

    threads: that compute one operation; None is one per usable CPU
    Raises KernelsUnavailable.
    """
    installed = version("mlx")
    if installed != MLX_VERSION:
        raise KernelsUnavailable(f"they need MLX {MLX_VERSION}, not {installed}")
    kernels: Kernels = _import(build(target, checked=checked))
    kernels.set_threads(threads or usable_cpus())
    return kernels


def usable_cpus() -> int:
    """CPUs this process may use: its affinity, and a container's quota."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = _CGROUP_LIMIT.read_text(encoding="ascii").split()
        return max(1, min(cpus, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return cpus


def _import(path: Path) -> Any:
    loader = importlib.machinery.ExtensionFileLoader(MODULE_NAME, str(path))
    spec = importlib.util.spec_from_loader(MODULE_NAME, loader)
    if spec is None:
        raise KernelsUnavailable("the module has no specification")
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise KernelsUnavailable(f"they could not be loaded: {str(error).rpartition('/')[2]}") from error
    return module
