"""Run a program that ends with this process, however this process ends. Knows pipes and signals, not programs.

    python companion.py DESCRIPTOR COMMAND...

A process that is killed cannot end those that it has started. The companion between the two sees the pipe close that
only its parent holds, and ends the program with all that the program has started.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self


class Companion:
    """A running program. Leaving the `with` ends it, where it has not ended."""

    def __init__(self, command: Sequence[str]) -> None:
        readable, self._held = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", __file__, str(readable), *command],
                pass_fds=[readable],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        finally:
            os.close(readable)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._held)
        self.process.communicate()

    @property
    def output(self) -> "IO[str] | None":
        """Everything that it prints."""
        return self.process.stdout


def run(command: Sequence[str], timeout_seconds: float) -> tuple[int, str]:
    """The exit code and the output of a program. Raises subprocess.TimeoutExpired, and ends it then."""
    with Companion(command) as companion:
        output, _ = companion.process.communicate(timeout=timeout_seconds)
    return companion.process.returncode, output


def _end_with_parent(descriptor: int, process_id: int) -> None:
    os.read(descriptor, 1)
    try:
        os.killpg(process_id, signal.SIGKILL)
    finally:
        os._exit(1)


def main(arguments: Sequence[str]) -> int:
    """The companion's own work."""
    descriptor, *command = arguments
    # A terminal's Ctrl-C reaches the parent, which decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, start_new_session=True)
    except OSError as error:
        sys.stderr.write(f"error: {error.strerror}\n")
        return 127
    threading.Thread(target=_end_with_parent, args=(int(descriptor), process.pid), daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
