"""The current and a 1.x release of the official client against the starter model, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REAL = Path(__file__).parents[1] / "real_serve.py"
SESSION = Path(__file__).parents[1] / "sdk_session.py"
OLD_CLIENT = Path(sys.prefix) / "openai-1"


@pytest.fixture(scope="module")
def server(launch, starter_model):
    return launch([REAL, "smollm2-135m", starter_model])


def run_session(server, **environment: str) -> str:
    command = [sys.executable, str(SESSION), f"{server.url}/v1"]
    ended = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_current_release_passes(server):
    assert not run_session(server).startswith("1.")


def test_a_1_x_release_passes(server):
    if not OLD_CLIENT.is_dir():
        pytest.skip("scripts/test installs the 1.x release into .venv/openai-1")
    assert run_session(server, PYTHONPATH=str(OLD_CLIENT)).startswith("1.")
