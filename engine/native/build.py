"""Compile the C++ files of this folder into one extension module, once per machine. Knows compilers, not arithmetic.

    python -m engine.native.build

Objects and modules lie in the user's cache folder under a hash of everything that goes into them.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from platformdirs import user_cache_path

from engine.companion import run
from engine.errors import KernelsUnavailable

Target = Literal["native", "avx2", "portable"]

MODULE_NAME = "kernels"
_BUILDING = "building-"
_FOLDER = Path(__file__).parent
_COMPILERS = ("g++", "clang++", "c++")
_LONGEST_COMPILE_SECONDS = 600
_DIALECT = ("-std=gnu++20", "-fPIC", "-fvisibility=hidden", "-pthread", "-DNB_DOMAIN=mlx")
_QUICK = ("-O3", "-DNDEBUG", "-fno-math-errno", "-fno-trapping-math")
_CHECKED = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize=vptr")
_MACHINE: dict[Target, tuple[str, ...]] = {
    "native": ("-march=native",),
    "avx2": ("-march=x86-64-v3",),
    "portable": ("-DBRAMLEY_PORTABLE",),
}


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Everything besides the sources that decides the result.

    compiler: its program; identity: changes whenever another result is to be expected
    """

    compiler: str
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    identity: str


def build(target: Target = "native", *, checked: bool = False, cache: Path | None = None) -> Path:
    """The extension module for this machine, compiled when it is not in the cache yet.

    target: "native" for this CPU, the others a lower path of the code
    checked: with the address and undefined-behaviour sanitizers
    cache: where to keep objects and modules instead of the user's cache folder
    Raises KernelsUnavailable with a reason of one line.
    """
    toolchain = find_toolchain(target, checked=checked)
    cache = cache or user_cache_path("bramley") / "kernels"
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        sources, objects, module = _files(toolchain, cache)
        if not module.exists():
            with _alone(cache):
                _sweep(cache)
                _compile_all(toolchain, sources, objects)
                if not module.exists():
                    _run_into(module, [toolchain.compiler, *map(str, objects), *toolchain.link_flags])
    except OSError as error:
        raise KernelsUnavailable(f"they could not be stored: {error.strerror}") from error
    return module


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Wait until no other process compiles: two would take twice as long, and do the same."""
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sweep(cache: Path) -> None:
    """Delete what a process has left that was killed while it compiled."""
    for folder in cache.glob(f"{_BUILDING}*"):
        shutil.rmtree(folder, ignore_errors=True)


def is_built(target: Target = "native") -> bool:
    """Whether the module for this machine is in the cache. Raises KernelsUnavailable where it could not be compiled."""
    _, _, module = _files(find_toolchain(target), user_cache_path("bramley") / "kernels")
    return module.exists()


def _files(toolchain: Toolchain, cache: Path) -> tuple[Sequence[Path], Sequence[Path], Path]:
    """The sources, their objects and the module, be they there or not."""
    sources = [*sorted(_FOLDER.glob("*.cpp")), _nanobind() / "src" / "nb_combined.cpp"]
    headers = b"".join(path.read_bytes() for path in sorted(_FOLDER.glob("*.hpp")))
    objects = [cache / f"{_digest(toolchain.identity, headers, path)}.o" for path in sources]
    return sources, objects, cache / f"{_digest(toolchain.identity, *(path.name.encode() for path in objects))}.so"


def find_toolchain(target: Target = "native", *, checked: bool = False) -> Toolchain:
    """The first C++ compiler on the path, with its flags. Raises KernelsUnavailable."""
    if sys.platform != "linux":
        raise KernelsUnavailable("they are for Linux")
    if target == "avx2" and platform.machine() != "x86_64":
        raise KernelsUnavailable("AVX2 exists on x86-64 only")
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise KernelsUnavailable("there is no C++ compiler (apt install g++)")
    speed = _CHECKED if checked else _QUICK
    compile_flags = (*_DIALECT, *speed, *_MACHINE[target], *_includes())
    link_flags = ("-shared", "-pthread", f"-L{_mlx() / 'lib'}", "-l:libmlx.so", *(_CHECKED if checked else ()))
    kept = (*_DIALECT, *speed, *_MACHINE[target], *_stable_interface())
    return Toolchain(compiler, compile_flags, link_flags, _identity(compiler, kept))


def _includes() -> tuple[str, ...]:
    python = Path(sysconfig.get_path("include"))
    if not (python / "Python.h").is_file():
        raise KernelsUnavailable("the headers of Python are missing (apt install python3-dev)")
    folders = (python, _mlx() / "include", _nanobind() / "include", _nanobind() / "ext" / "robin_map" / "include")
    return (*(f"-isystem{folder}" for folder in folders), *_stable_interface())


def _stable_interface() -> tuple[str, ...]:
    """MLX is built against the stable interface where Python has one; types are shared between equals only."""
    return ("-DPy_LIMITED_API=0x030C0000",) if next(_mlx().glob("core*.abi3.so"), None) else ()


def _mlx() -> Path:
    return _package("mlx", "lib/libmlx.so")


def _nanobind() -> Path:
    return _package("nanobind", "src/nb_combined.cpp")


def _package(name: str, file: str) -> Path:
    spec = find_spec(name)
    # A package without __init__.py may have several folders, and some of them other people's.
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    for folder in folders:
        if (folder / file).is_file():
            return folder
    raise KernelsUnavailable(f"the package {name} is not installed")


def _identity(compiler: str, flags: Sequence[str]) -> str:
    """A text that is alike wherever packages are alike: a new checkout finds the kernels that another has compiled.

    The compiler counts by size and time of its file: asking it for its version would cost more than all the rest.
    """
    program = Path(compiler).resolve()
    packages = [f"{name} {version(name)}" for name in ("mlx", "nanobind")]
    # Of one version there are several builds of MLX, for CPUs and for GPUs.
    sizes = [f"{path.name} {path.stat().st_size}" for path in (_mlx() / "lib" / "libmlx.so", program)]
    stamp = f"{program} {program.stat().st_mtime_ns}"
    return "\n".join((*packages, *sizes, stamp, *flags, sysconfig.get_python_version(), _cpu()))


def _cpu() -> str:
    """The features of the CPU that -march=native reads: a home folder may be shared between machines."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    kept = ("flags", "Features", "model", "CPU part", "CPU implementer")
    return "\n".join(line for line in lines if line.startswith(kept))


def _digest(identity: str, *parts: bytes | Path) -> str:
    digest = hashlib.sha256(identity.encode())
    for part in parts:
        content = part if isinstance(part, bytes) else part.read_bytes()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:32]


def _compile_all(toolchain: Toolchain, sources: Sequence[Path], objects: Sequence[Path]) -> None:
    def compile_one(source: Path, into: Path) -> None:
        # nanobind reads Python objects through several types; it asks for this flag.
        relaxed = ("-fno-strict-aliasing",) if source.name == "nb_combined.cpp" else ()
        if not into.exists():
            command = [toolchain.compiler, "-c", str(source), f"-I{_FOLDER}", *toolchain.compile_flags, *relaxed]
            _run_into(into, command)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(compile_one, sources, objects):
            pass


def _run_into(path: Path, command: Sequence[str]) -> None:
    """Run a command that writes one file, under a name of its own first: it appears whole."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_BUILDING) as folder:
        result = Path(folder) / path.name
        try:
            exit_code, output = run([*command, "-o", str(result)], _LONGEST_COMPILE_SECONDS)
        except subprocess.TimeoutExpired:
            raise KernelsUnavailable("the compiler took too long") from None
        if exit_code != 0 or not result.exists():
            raise KernelsUnavailable(f"the compiler failed: {_first_error(output)}")
        result.replace(path)


def _first_error(output: str) -> str:
    lines = output.splitlines() or ["it printed nothing"]
    error = next((line for line in lines if "error" in line), lines[0])
    return error.rpartition("/")[2][:200]


def main() -> int:
    """Build for this machine and say in one line how it went."""
    try:
        build()
    except KernelsUnavailable as unavailable:
        print(unavailable, file=sys.stderr)  # noqa: T201  # a program's own output
    return 0


if __name__ == "__main__":
    sys.exit(main())
