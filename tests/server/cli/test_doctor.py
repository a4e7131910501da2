"""`bramley doctor`: what it finds on a machine, and that everything wrong comes with a way to mend it."""

import json
import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from server.cli.doctor import examine
from server.settings import Settings
from server.store.pull import pull
from server.store.store import Store

ROOT = Path(__file__).parents[3]
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
def doctor(tmp_path, monkeypatch):
    """Findings by name, for settings on top of those of a machine that is well."""
    for name in [name for name in os.environ if name.startswith("BRAMLEY_")]:
        monkeypatch.delenv(name)
    usual = {
        "models_dir": tmp_path / "models",
        "hf_hub_cache": tmp_path / "huggingface",
        "prefix_folder": tmp_path / "prefixes",
        "port": 9,
    }

    def look(**settings):
        found = examine(Settings(**usual | settings))
        assert [each for each in found if each.state != "ok" and not each.mend] == []
        return {each.name: each for each in found}

    return look


def test_a_machine_that_is_well_has_nothing_to_mend(doctor):
    found = doctor()
    assert set(found) >= NAMES
    assert [each.name for each in found.values() if each.state == "failure"] == []
    assert found["mlx"].state == "ok"
    assert found["models"].found == "none"
    assert found["port"].found == "9 is free"


def test_findings_are_json_and_a_failure_is_an_exit_code(bramley):
    result = bramley("doctor", "--json", BRAMLEY_HOST="0.0.0.0", BRAMLEY_API_KEYS_FILE="/nowhere")  # noqa: S104
    assert result.returncode == 1
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert set(rows["address"]) == {"name", "state", "found", "mend"}
    assert rows["API keys"]["state"] == "failure"


def test_findings_are_lines_in_a_pipe(bramley):
    lines = [line.split("\t") for line in bramley("doctor").stdout.splitlines()]
    assert {len(line) for line in lines} == {4}
    assert {line[1] for line in lines} >= NAMES


def test_port_is_free_ours_silent_or_another_programs(doctor, stub_server):
    assert "Bramley is serving" in doctor(port=stub_server.port)["port"].found
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert doctor(port=silent.getsockname()[1])["port"].state == "warning"
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        Thread(target=other.serve_forever, args=(0.02,)).start()
        found = doctor(port=other.server_port)["port"]
        other.shutdown()
    assert found.state == "failure"
    assert "--port" in found.mend


def test_public_address_needs_a_key(doctor):
    public = {"host": "0.0.0.0"}  # noqa: S104  # nothing listens
    assert doctor(**public)["address"].state == "failure"
    assert doctor(**public, allow_insecure=True)["address"].state == "warning"
    assert doctor(**public, api_keys=("sesame",))["address"].state == "ok"


def test_keys_that_others_may_read_are_found(doctor, tmp_path):
    file = tmp_path / "keys"
    file.write_text("sesame\n")
    file.chmod(0o644)
    found = doctor(api_keys_file=file)
    assert found["key file"].mend == f"chmod 600 {file}"
    assert "sesame" not in str(found)
    file.chmod(0o600)
    assert "key file" not in doctor(api_keys_file=file)


def test_doors_without_a_lock_are_found(doctor):
    assert doctor(allowed_hosts=("*",))["allowed hosts"].state == "warning"
    assert doctor(allowed_origins=("*",))["allowed origins"].state == "warning"
    assert "allowed origins" not in doctor(allowed_origins=("*",), api_keys=("sesame",))


def test_damaged_models_and_unfinished_downloads_are_found(doctor, tmp_path):
    pull(
        str(ROOT / "tests" / "engine" / "architectures" / "fixtures" / "llama"),
        Store(tmp_path / "models"),
        lambda _: None,
    )
    assert doctor()["models"].found.startswith("1, ")
    (tmp_path / "models" / "llama" / "config.json").write_text("{}")
    (tmp_path / "models" / ".partial" / "org--half").mkdir()
    found = doctor()
    assert found["models"].found == "damaged: llama"
    assert "bramley rm org/half" in found["unfinished downloads"].mend


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
        assert f"{other.pid} (" in doctor()["other MLX processes"].found
        other.stdin.close()


@pytest.mark.parametrize(
    "command", [["doctor"], ["ls"], ["show", "smollm2-135m"], ["config", "show"], ["connect", "zed"]]
)
def test_looking_never_loads_mlx(environment, command):
    code = (
        f"import sys, server.cli.app\nsys.argv = ['bramley', *{command}]\n"
        "try:\n    server.cli.app.main()\nexcept SystemExit:\n    pass\n"
        "sys.exit('mlx.core' in sys.modules or 'numpy' in sys.modules)"
    )
    environment = {name: value for name, value in environment.items() if name != "BRAMLEY_MODELS_DIR"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
