"""Bramley as a systemd unit of this user: `man systemd.service`, `man systemctl`."""

from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_config_path

from server.cli.service.agent import STOP_SPARE_SECONDS, Run, ServiceFailed, State, insist
from server.exit_codes import USAGE

UNIT = "bramley.service"
_RESTART_SECONDS = 5
_OPEN_FILES = 4096


class Systemd:
    """The unit in the user's configuration folder."""

    def __init__(self, home: Path, run: Run, folder: Path | None = None) -> None:
        self._home = home
        self._run = run
        self.path = (folder or user_config_path("systemd") / "user") / UNIT

    def install(self, command: Sequence[str], drain_seconds: float) -> None:
        """Write the unit, enable it, and start it anew where it ran."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self._content(command, drain_seconds), encoding="utf-8")
        self._systemctl("daemon-reload")
        self._systemctl("enable", UNIT)
        self._systemctl("restart", UNIT)

    def uninstall(self) -> None:
        """Stop and disable it, and delete its file."""
        self._run(["systemctl", "--user", "disable", "--now", UNIT])
        self.path.unlink(missing_ok=True)
        self._run(["systemctl", "--user", "daemon-reload"])

    def start(self) -> None:
        """Start it."""
        self._require()
        self._systemctl("start", UNIT)

    def stop(self) -> None:
        """Stop it, and wait until it has ended."""
        self._require()
        self._systemctl("stop", UNIT)

    def state(self) -> State:
        """As `systemctl show` tells it."""
        shown = self._run(["systemctl", "--user", "show", UNIT, "--property=ActiveState,MainPID"]).stdout
        values = dict(line.partition("=")[::2] for line in shown.splitlines())
        process_id = int(values.get("MainPID") or 0)
        return State(self.path.is_file(), values.get("ActiveState") == "active", process_id or None)

    def logs(self, lines: int, *, follow: bool) -> Sequence[str]:
        """Its log is the journal's."""
        return ["journalctl", "--user", "--unit", UNIT, "--lines", str(lines), *(["--follow"] if follow else [])]

    def _systemctl(self, *words: str) -> None:
        insist(self._run, ["systemctl", "--user", *words])

    def _require(self) -> None:
        if not self.path.is_file():
            raise ServiceFailed("The service is not installed: `bramley service install` does so.")

    def _content(self, command: Sequence[str], drain_seconds: float) -> str:
        lines = [
            "[Unit]",
            "Description=Bramley, a local inference server",
            "",
            "[Service]",
            f"ExecStart={' '.join(_quoted(word) for word in command)}",
            f"WorkingDirectory={_escaped(str(self._home))}",
            # The server alone is told to end: its workers finish the answers that run.
            "KillMode=mixed",
            f"TimeoutStopSec={int(drain_seconds) + STOP_SPARE_SECONDS}",
            "Restart=on-failure",
            f"RestartSec={_RESTART_SECONDS}",
            # Wrong settings do not mend themselves.
            f"RestartPreventExitStatus={USAGE}",
            f"LimitNOFILE={_OPEN_FILES}",
            "",
            "[Install]",
            "WantedBy=default.target",
        ]
        return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    escaped = _escaped(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    """Text without specifiers."""
    return text.replace("%", "%%")
