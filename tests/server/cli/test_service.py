"""`bramley service`: the files that launchd and systemd get, and what these are told to do."""

import json
import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli.service.agent import ServiceFailed
from server.cli.service.launchd import Launchd
from server.cli.service.systemd import Systemd
from server.exit_codes import USAGE

AWKWARD = ["/opt/my bramley/bin/bramley", "serve", "100%", "$HOME", 'a"b', "back\\slash"]


class Recorded:
    """Runs nothing: remembers the commands, and answers as it is told."""

    def __init__(self, returncode=0, stdout=""):
        self.commands, self.returncode, self.stdout = [], returncode, stdout

    def __call__(self, command):
        self.commands.append(" ".join(command))
        return subprocess.CompletedProcess(command, self.returncode, self.stdout, "It is broken.\n")


def test_launchd_gets_an_agent_that_runs_now_and_after_failures(tmp_path):
    run = Recorded()
    agent = Launchd(tmp_path, 501, run)
    agent.install(AWKWARD, 30.0)
    content = plistlib.loads(agent.path.read_bytes())
    assert agent.path == tmp_path / "Library" / "LaunchAgents" / "bramley.serve.plist"
    assert content["Label"] == agent.path.stem
    assert content["ProgramArguments"] == AWKWARD
    assert content["RunAtLoad"] is True
    assert content["KeepAlive"] == {"SuccessfulExit": False}
    assert content["ExitTimeOut"] == 40, "launchd must not kill before running answers are finished"
    assert Path(content["StandardErrorPath"]).parent.is_dir()
    assert run.commands[-1] == f"launchctl bootstrap gui/501 {agent.path}"


def test_launchd_is_told_to_start_stop_and_forget(tmp_path):
    run = Recorded(stdout="\tstate = running\n\tpid = 4711\n")
    agent = Launchd(tmp_path, 501, run)
    agent.install(["bramley", "serve"], 30.0)
    state = agent.state()
    assert (state.installed, state.running, state.process_id) == (True, True, 4711)
    agent.stop()
    assert run.commands[-1] == "launchctl kill SIGTERM gui/501/bramley.serve"
    agent.start()
    assert run.commands[-1] == "launchctl kickstart gui/501/bramley.serve"
    agent.uninstall()
    assert run.commands[-1] == "launchctl bootout gui/501/bramley.serve"
    assert not agent.path.exists()
    with pytest.raises(ServiceFailed, match="not installed"):
        agent.start()


def test_systemd_gets_a_unit_that_lets_workers_finish(tmp_path):
    run = Recorded()
    agent = Systemd(tmp_path, run, tmp_path / "units")
    agent.install(AWKWARD, 30.0)
    lines = agent.path.read_text().splitlines()
    assert r'ExecStart="/opt/my bramley/bin/bramley" "serve" "100%%" "$$HOME" "a\"b" "back\\slash"' in lines, (
        "specifiers, variables and quotes must reach the program as they are"
    )
    assert {"KillMode=mixed", "TimeoutStopSec=40", "Restart=on-failure", "WantedBy=default.target"} <= set(lines)
    assert f"RestartPreventExitStatus={USAGE}" in lines
    assert run.commands == [
        f"systemctl --user {words}" for words in ("daemon-reload", "enable bramley.service", "restart bramley.service")
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_takes_the_unit(tmp_path):
    agent = Systemd(tmp_path, Recorded(), tmp_path)
    agent.install([sys.executable, "serve", "100%", "$HOME"], 30.0)
    checked = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(agent.path)],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_refusal_of_the_system_is_one_sentence(tmp_path):
    with pytest.raises(ServiceFailed, match=r"`systemctl --user daemon-reload` failed: It is broken\.\.?"):
        Systemd(tmp_path, Recorded(returncode=1), tmp_path).install(["bramley"], 30.0)


@pytest.fixture
def system(bramley, environment, tmp_path):
    """The command, with programs of systemd that only write down what they are told."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "journalctl"):
        (programs / name).write_text(
            f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/told\necho ActiveState=active\necho MainPID=4711\n'
        )
        (programs / name).chmod(0o755)
    environment |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    return lambda *arguments, **variables: bramley("service", *arguments, **variables)


@pytest.mark.skipif(sys.platform != "linux", reason="the real thing of this system")
def test_service_from_install_to_uninstall(system, tmp_path):
    config = tmp_path / "my config.toml"
    config.write_text("port = 9")
    result = system("install", "smollm2-135m", "--config", config, BRAMLEY_MAX_ROWS="3")
    assert result.returncode == 0, result.stderr
    assert "does not see" in result.stderr
    assert "BRAMLEY_MAX_ROWS" in result.stderr
    unit = tmp_path / "config" / "systemd" / "user" / "bramley.service"
    assert f'"serve" "smollm2-135m" "--config" "{config}"' in unit.read_text()
    state = json.loads(system("status", "--json").stdout)
    assert {name: state[name] for name in ("installed", "running", "process_id", "answers")} == {
        "installed": True,
        "running": True,
        "process_id": 4711,
        "answers": False,
    }
    assert system("stop").returncode == system("start").returncode == 0
    assert "ActiveState" in system("logs", "-n", "7", "-f").stdout
    assert system("uninstall").returncode == 0
    assert not unit.exists()
    told = (tmp_path / "told").read_text().splitlines()
    assert told[0] == "systemctl --user daemon-reload"
    assert "journalctl --user --unit bramley.service --lines 7 --follow" in told
    assert {"systemctl --user stop bramley.service", "systemctl --user start bramley.service"} <= set(told)
    assert system("start").returncode == 1


def test_service_does_not_start_with_wrong_settings(system, tmp_path):
    result = system("install", BRAMLEY_MAX_ROWS="none")
    assert result.returncode == 2
    assert not (tmp_path / "told").exists()
