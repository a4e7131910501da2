"""The machine itself: chip, memory, system, limits, and who else computes on it. Knows nothing of models."""

import ctypes
import ctypes.util
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from engine.machine import memory_bytes
from server.cli.doctor.finding import Finding, failure, ok, warning
from server.sizes import megabytes

# What MLX's wheels are built for.
_OLDEST_MACOS = (14, 0)
_LEAST_FREE_BYTES = 2_000_000_000
_LEAST_FILES = 1024
# Programs that use MLX, by a word of their command line.
_MLX_WORDS = ("mlx_lm", "mlx-lm", "mlx_vlm", "mlx-vlm", "vllm-mlx", "vllm_mlx", "mlx_engine", "omlx", "rapid-mlx")
_MAX_NAMED = 32


def look() -> Iterator[Finding]:
    """Chip, memory, system, Python and limits."""
    yield _chip()
    yield _memory()
    yield _system()
    yield _python()
    yield _open_files()


def other_mlx_processes() -> Iterator[Finding]:
    """Processes of this user that have MLX loaded, Bramley's own ones apart."""
    others: list[tuple[int, int]] = []
    ours = 0
    for process in psutil.process_iter(["pid", "cmdline", "memory_info"]):
        words = " ".join(process.info["cmdline"] or ())
        named = any(word in words for word in _MLX_WORDS)
        if process.pid == os.getpid() or not (named or _has_mlx(process.pid)):
            continue
        if "server.worker" in words:
            ours += 1
        else:
            memory = process.info["memory_info"]
            others.append((memory.rss if memory else 0, process.pid))
    if others:
        others.sort(reverse=True)
        shown = ", ".join(f"{pid} ({megabytes(num_bytes)})" for num_bytes, pid in others[:_MAX_NAMED])
        yield warning("other MLX processes", shown, "They share the memory: end those you do not need (`kill PID`).")
    else:
        yield ok("other MLX processes", f"none besides {ours} of Bramley" if ours else "none")


def _chip() -> Finding:
    chip = _sysctl("machdep.cpu.brand_string") if sys.platform == "darwin" else _cpu_of_proc()
    found = f"{chip or platform.machine()}, {psutil.cpu_count(logical=False) or '?'} cores"
    if sys.platform == "darwin" and platform.machine() != "arm64":
        rosetta = "Apple" in chip
        mend = (
            "Use a Python for arm64: this one runs under Rosetta." if rosetta else "MLX needs a Mac with Apple silicon."
        )
        return failure("chip", f"{found}, {platform.machine()}", mend)
    return ok("chip", found)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    available = min(memory.available, memory_bytes())
    found = f"{megabytes(memory_bytes())}, {megabytes(available)} to spare"
    if sys.platform == "darwin" and (limit := _sysctl_number("iogpu.wired_limit_mb")):
        found += f", GPU limit set to {limit} MB"
    if available < _LEAST_FREE_BYTES:
        return warning("memory", found, "Close programs, or serve a smaller model.")
    return ok("memory", found)


def _system() -> Finding:
    if sys.platform != "darwin":
        return ok("system", f"Linux {platform.release()}, MLX on the CPU")
    version = platform.mac_ver()[0]
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST_MACOS:
        return failure("system", f"macOS {version}", "MLX needs macOS 14 or newer: update in System Settings.")
    return ok("system", f"macOS {version}")


def _python() -> Finding:
    return ok("python", f"{platform.python_version()} at {sys.executable}")


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        return warning("open files", f"at most {soft}", "`ulimit -n 4096` before `bramley serve` lets more clients in.")
    return ok("open files", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")


def _cpu_of_proc() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _has_mlx(pid: int) -> bool:
    """Whether the process has MLX's library mapped; on Linux only, and of this user's processes only."""
    try:
        return "/libmlx." in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _sysctl(name: str) -> str:
    """A text of the macOS kernel, or "" where it does not know the name."""
    value, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    failed = _libc().sysctlbyname(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0))
    return "" if failed else value.value.decode(errors="replace")


def _sysctl_number(name: str) -> int:
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    failed = _libc().sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return 0 if failed else value.value


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("c"))
