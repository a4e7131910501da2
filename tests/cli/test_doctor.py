"""`bramley doctor`: what it finds on a machine, and that everything wrong comes with a way to mend it."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NAMES = {
    "chip",
    "memory",
    "system",
    "python",
    "mlx",
    "models' folder",
    "disk",
    "port",
    "address",
    "other MLX processes",
}


@pytest.fixture
def doctor(bramley):
    """Findings by name, with the exit code under ""."""

    def examine(**variables):
        result = bramley("doctor", "--json", **variables)
        assert "Traceback" not in result.stderr, result.stderr
        rows = {row["name"]: row for row in json.loads(result.stdout)}
        assert [row for row in rows.values() if row["state"] != "ok" and not row["mend"]] == []
        return rows | {"": result.returncode}

    return examine


def test_a_machine_that_is_well_has_nothing_to_mend(doctor):
    found = doctor()
    assert set(found) >= NAMES
    assert found[""] == 0
    assert found["mlx"]["state"] == "ok"
    assert found["models"]["found"] == "none"
    assert found["port"]["found"] == "9 is free"


def test_findings_are_lines_in_a_pipe(bramley):
    lines = [line.split("\t") for line in bramley("doctor").stdout.splitlines()]
    assert {len(line) for line in lines} == {4}
    assert {line[1] for line in lines} >= NAMES


def test_port_of_another_program_is_a_failure_and_that_of_a_running_server_is_not(doctor, stub_server):
    with socket.create_server(("127.0.0.1", 0)) as other:
        found = doctor(BRAMLEY_PORT=str(other.getsockname()[1]))
    assert found[""] == 1
    assert "used by another program" in found["port"]["found"]
    assert "--port" in found["port"]["mend"]
    assert "Bramley is serving" in doctor(BRAMLEY_PORT=str(stub_server.port))["port"]["found"]


def test_public_address_needs_a_key(doctor):
    found = doctor(BRAMLEY_HOST="0.0.0.0")  # noqa: S104  # nothing listens
    assert (found[""], found["address"]["state"]) == (1, "failure")
    assert doctor(BRAMLEY_HOST="0.0.0.0", BRAMLEY_ALLOW_INSECURE="1")["address"]["state"] == "warning"  # noqa: S104
    assert doctor(BRAMLEY_HOST="0.0.0.0", BRAMLEY_API_KEYS="sesame")["address"]["state"] == "ok"  # noqa: S104


def test_keys_that_others_may_read_or_that_nobody_can_are_found(doctor, tmp_path):
    file = tmp_path / "keys"
    assert doctor(BRAMLEY_API_KEYS_FILE=str(file))["API keys"]["state"] == "failure"
    file.write_text("sesame\n")
    file.chmod(0o644)
    found = doctor(BRAMLEY_API_KEYS_FILE=str(file))
    assert found["key file"]["mend"] == f"chmod 600 {file}"
    assert "sesame" not in json.dumps(found)
    file.chmod(0o600)
    assert "key file" not in doctor(BRAMLEY_API_KEYS_FILE=str(file))


def test_damaged_models_and_unfinished_downloads_are_found(doctor, bramley, environment):
    bramley("pull", ROOT / "tests" / "parity" / "fixtures" / "llama")
    models = Path(environment["BRAMLEY_MODELS_DIR"])
    assert doctor()["models"]["found"].startswith("1, ")
    (models / "llama" / "config.json").write_text("{}")
    (models / ".partial" / "org--half").mkdir()
    found = doctor()
    assert found["models"]["found"] == "damaged: llama"
    assert "bramley rm org/half" in found["unfinished downloads"]["mend"]


@pytest.mark.skipif(sys.platform != "linux", reason="maps of processes are Linux's")
def test_another_process_with_mlx_is_found(doctor):
    code = "import mlx.core, sys; print('up', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert other.stdin is not None
    assert other.stdout is not None
    with other, other.stdin:
        assert other.stdout.readline() == "up\n"
        found = doctor()["other MLX processes"]
        assert f"{other.pid} (" in found["found"]
        other.stdin.close()


@pytest.mark.parametrize(
    "command", [["doctor"], ["ls"], ["show", "smollm2-135m"], ["config", "show"], ["connect", "zed"]]
)
def test_looking_never_loads_mlx(environment, command):
    code = (
        f"import sys, server.cli\nsys.argv = ['bramley', *{command}]\n"
        "try:\n    server.cli.main()\nexcept SystemExit:\n    pass\n"
        "sys.exit('mlx.core' in sys.modules or 'numpy' in sys.modules)"
    )
    environment = {name: value for name, value in environment.items() if name != "BRAMLEY_MODELS_DIR"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
