"""Other servers, started with the same model while they are measured. Knows their command lines, no figures."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from own import ROOT

_BUILD = ROOT / "build" / "peers"
_MLX_LM: dict[str, tuple[str, ...]] = {"mlx-lm": (), "mlx-lm-float32": ("--dequantize", "--dtype", "float32")}
_OPENBLAS = "libopenblas.so.0"  # of the system, in front of the slow one in MLX's wheel
_START_SECONDS = 120.0
_CONTEXT_PER_STREAM = 2048
_STREAMS = 8


@contextmanager
def peer(name: str, model: Path, threads: int) -> Iterator[tuple[str, str | None]]:
    """Start a peer and yield its base URL and its name for the model, None for what it lists; it is gone afterwards.

    name: "mlx-lm", which is installed under build/ for it; "mlx-lm-float32", the same with dense float32 weights and
        the system's OpenBLAS, its quickest form on this backend; or the path of a llama-server binary
    model: a folder with one GGUF file, as the store has it
    """
    port = _free_port()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    if name in _MLX_LM:
        command = _mlx_lm(model, port, *_MLX_LM[name])
        environment["LD_PRELOAD"] = _OPENBLAS
    else:
        command = _llama_server(Path(name), model, port, threads)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            _wait(process, port, name)
            yield f"http://127.0.0.1:{port}/v1", "default_model" if name in _MLX_LM else None
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _llama_server(binary: Path, model: Path, port: int, threads: int) -> list[str]:
    # Slots for as many streams as are measured, each with room for the longest prompt. Without its copies of caches in
    # memory, which slow it down whenever a slot changes hands; a slot's own prefix is still found again.
    context = ["--ctx-size", str(_CONTEXT_PER_STREAM * _STREAMS), "--parallel", str(_STREAMS), "--cache-ram", "0"]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    return [str(binary), "--model", str(_gguf(model)), *address, *context, "--threads", str(threads)]


def _mlx_lm(model: Path, port: int, *convert: str) -> list[str]:
    python = _BUILD / "mlx-lm" / "bin" / "python"
    if not python.exists():
        print("Installing mlx-lm under build/peers ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        mlx = _pinned_mlx()
        subprocess.run([python, "-m", "pip", "install", "--quiet", "mlx-lm", mlx], check=True)
    return [
        *(str(python), "-m", "mlx_lm", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--model", str(_mlx_folder(model, *convert)), "--decode-concurrency", str(_STREAMS)),
    ]


def _mlx_folder(model: Path, *options: str) -> Path:
    """The same weights in the folder format that mlx-lm reads."""
    folder = _BUILD / f"{model.name}-mlx{'-float32' if options else ''}"
    if not folder.exists():
        bramley = [sys.executable, "-m", "server.cli.app", "convert", str(model), "--output", str(folder), *options]
        subprocess.run(bramley, check=True, cwd=ROOT)
    return folder


def _pinned_mlx() -> str:
    """The requirement of this project, so that both run on the same MLX."""
    pins = re.findall(r'"(mlx[^;"]*==[^;"]*); sys_platform == \'(\w+)\'"', (ROOT / "pyproject.toml").read_text())
    return next(requirement for requirement, system in pins if system == sys.platform)


def _gguf(model: Path) -> Path:
    found = [model] if model.suffix == ".gguf" else sorted(model.glob("*.gguf"))
    if len(found) != 1:
        raise SystemExit(f"llama-server needs a model with one GGUF file; {model.name} has {len(found)}")
    return found[0]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", port: int, name: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{name} did not start")
