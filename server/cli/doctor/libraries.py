"""The libraries that compute: MLX's version, the kernels and the BLAS. Asks for their files, never loads them."""

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from engine import blas
from engine.errors import KernelsUnavailable
from engine.native.build import is_built
from server.cli.doctor.finding import Finding, failure, ok, warning
from server.settings import Settings
from server.version import VERSION


def look(settings: Settings) -> Iterator[Finding]:
    """Versions, and on Linux the kernels and the BLAS."""
    yield ok("bramley", VERSION)
    yield _mlx()
    if sys.platform == "linux":
        yield _kernels(settings)
        yield _blas()


def _mlx() -> Finding:
    wanted = _wanted_mlx()
    try:
        installed = version("mlx")
    except PackageNotFoundError:
        return failure("mlx", "not installed", f"pip install mlx=={wanted}")
    if wanted and installed != wanted:
        return failure("mlx", installed, f"Bramley is made for {wanted}: pip install mlx=={wanted}")
    return ok("mlx", installed)


def _wanted_mlx() -> str:
    """The release that Bramley's own metadata asks for; "" where it is not installed."""
    try:
        lines = requires("bramley") or ()
    except PackageNotFoundError:
        return ""
    exact = (line.partition("==")[2] for line in lines if line.startswith("mlx") and "==" in line.partition(";")[0])
    return next((line.partition(";")[0].strip() for line in exact), "")


def _kernels(settings: Settings) -> Finding:
    if settings.kernels == "off":
        return warning("kernels", "off: MLX's own operations compute", "Set kernels to native; these are much faster.")
    try:
        built = is_built(settings.kernels)
    except KernelsUnavailable as unavailable:
        return warning(
            "kernels", f"none: {unavailable.reason}", "Mend that and start again; until then MLX's own compute."
        )
    if not built:
        return warning(
            "kernels", f"{settings.kernels}, not compiled yet", "python -m engine.native.build, or just serve."
        )
    return ok("kernels", f"{settings.kernels}, compiled for this machine")


def _blas() -> Finding:
    found = blas.preload()
    if found != "bundled":
        return ok("BLAS", found)
    mend = "apt install libopenblas0-pthread: dense products are slow without it."
    return warning("BLAS", "MLX's bundled reference BLAS", mend)
