"""The actions of a system's service manager on Bramley as one interface, and how they fail."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from server.exit_codes import CommandFailed

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]

# How long a stop may take beyond the draining of running answers, until the system kills.
STOP_SPARE_SECONDS = 10


class ServiceFailed(CommandFailed):
    """The system's manager refused; str() is one sentence."""


@dataclass(frozen=True, slots=True)
class State:
    """Of the service: its file is there, it runs, and as which process."""

    installed: bool
    running: bool
    process_id: int | None = None


class Agent(Protocol):
    """One system's manager, for this user alone.

    path: of the file that describes the service
    """

    path: Path

    def install(self, command: Sequence[str], drain_seconds: float) -> None:
        """Write the file, have the service start with every session, and start it."""

    def uninstall(self) -> None:
        """Stop the service and delete its file."""

    def start(self) -> None:
        """Start it."""

    def stop(self) -> None:
        """End it as by SIGTERM: running answers are finished."""

    def state(self) -> State:
        """Whether it is there and runs."""

    def logs(self, lines: int, *, follow: bool) -> Sequence[str]:
        """The command that shows the last lines of its log."""


def insist(run: Run, command: Sequence[str]) -> str:
    """The output of a command. Raises ServiceFailed with its last words where it fails."""
    done = run(command)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ServiceFailed(f"`{' '.join(command)}` failed: {said[-1] if said else f'exit code {done.returncode}'}.")
    return done.stdout
