"""Bramley as a launchd agent of this user: `man launchd.plist`, `man launchctl`."""

import plistlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.cli.service.agent import STOP_SPARE_SECONDS, Run, ServiceFailed, State, insist

LABEL = "bramley.serve"
_OPEN_FILES = 4096
_THROTTLE_SECONDS = 10
_PATH = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


class Launchd:
    """The agent of the user with that home and number."""

    def __init__(self, home: Path, user: int, run: Run) -> None:
        self._home = home
        self._domain = f"gui/{user}"
        self._run = run
        self.path = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        self._log = home / "Library" / "Logs" / "bramley.log"

    @property
    def _target(self) -> str:
        return f"{self._domain}/{LABEL}"

    def install(self, command: Sequence[str], drain_seconds: float) -> None:
        """Write the agent's file and load it, in place of one that was loaded."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._run(["launchctl", "bootout", self._target])
        self.path.write_bytes(plistlib.dumps(self._content(command, drain_seconds)))
        insist(self._run, ["launchctl", "bootstrap", self._domain, str(self.path)])

    def uninstall(self) -> None:
        """Unload it and delete its file."""
        self._run(["launchctl", "bootout", self._target])
        self.path.unlink(missing_ok=True)

    def start(self) -> None:
        """Start it, loaded or not."""
        self._require()
        if self._run(["launchctl", "print", self._target]).returncode:
            insist(self._run, ["launchctl", "bootstrap", self._domain, str(self.path)])
        insist(self._run, ["launchctl", "kickstart", self._target])

    def stop(self) -> None:
        """End it; an end without failure is not followed by a start."""
        self._require()
        insist(self._run, ["launchctl", "kill", "SIGTERM", self._target])

    def state(self) -> State:
        """As `launchctl print` tells it."""
        printed = self._run(["launchctl", "print", self._target]).stdout
        found = re.search(r"^\s*pid = (\d+)", printed, re.MULTILINE)
        return State(self.path.is_file(), found is not None, int(found[1]) if found else None)

    def logs(self, lines: int, *, follow: bool) -> Sequence[str]:
        """Its log is a file."""
        return ["tail", "-n", str(lines), *(["-f"] if follow else []), str(self._log)]

    def _require(self) -> None:
        if not self.path.is_file():
            raise ServiceFailed("The service is not installed: `bramley service install` does so.")

    def _content(self, command: Sequence[str], drain_seconds: float) -> dict[str, Any]:
        return {
            "Label": LABEL,
            "ProgramArguments": list(command),
            "RunAtLoad": True,
            # Started again after a failure, not after `stop`.
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": _THROTTLE_SECONDS,
            "ExitTimeOut": int(drain_seconds) + STOP_SPARE_SECONDS,
            # Somebody waits for the answers: no throttling of background work.
            "ProcessType": "Interactive",
            "SoftResourceLimits": {"NumberOfFiles": _OPEN_FILES},
            "EnvironmentVariables": {"PATH": _PATH},
            "WorkingDirectory": str(self._home),
            "StandardOutPath": str(self._log),
            "StandardErrorPath": str(self._log),
        }
