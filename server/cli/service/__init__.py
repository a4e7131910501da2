"""A server that starts with the user's session: a launchd agent on macOS, a systemd user unit on Linux."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from server.cli.service.agent import Agent, ServiceFailed
from server.cli.service.launchd import Launchd
from server.cli.service.systemd import Systemd


def agent_here() -> Agent:
    """The one of this system. Raises ServiceFailed where it has none."""
    if sys.platform == "darwin":
        return Launchd(Path.home(), os.getuid(), _run)
    if sys.platform == "linux":
        return Systemd(Path.home(), _run)
    raise ServiceFailed(f"There are services for macOS and Linux, and not for {sys.platform}.")


def program() -> str:
    """The installed `bramley` of this environment. Raises ServiceFailed where it is not installed."""
    path = Path(sys.executable).with_name("bramley")
    if not path.is_file():
        raise ServiceFailed(f"{path} is not there: install Bramley into this environment first.")
    return str(path)


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ServiceFailed(f"This system has no {command[0]}: start `bramley serve` in your own way.") from None
