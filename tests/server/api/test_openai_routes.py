"""Every route with official clients, each in a process of its own: Python's, a 1.x release of it, and JavaScript's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
OLD_CLIENT = Path(sys.prefix) / "openai-1"
JAVASCRIPT = HERE.parent.parent / "build" / "openai-js"
MARKERS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]


@pytest.fixture(scope="module")
def addresses(start_fake, launch, spelled_model) -> list[str]:
    """Of a scripted model, of one that makes vectors, and of a scripted one that takes one request at a time."""
    load = {"template": "{{ tools }} <tool_call> </think>", "markers": MARKERS}
    servers = (
        start_fake(load=load),
        launch([HERE / "real_serve.py", "tiny", spelled_model("bert")]),
        start_fake(load=load, max_queue=1),
    )
    return [f"{server.url}/v1" for server in servers]


def run(*command: object, **environment: str) -> str:
    """The version that a session prints when everything held."""
    ended = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_current_python_release_passes(addresses):
    assert int(run(sys.executable, HERE / "sdk_routes.py", *addresses).split(".")[0]) >= 3


def test_a_1_x_python_release_passes(addresses):
    if not OLD_CLIENT.is_dir():
        pytest.skip("scripts/test installs the 1.x release into .venv/openai-1")
    assert run(sys.executable, HERE / "sdk_routes.py", *addresses, PYTHONPATH=str(OLD_CLIENT)).startswith("1.")


def test_the_javascript_release_passes(addresses):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (JAVASCRIPT / "node_modules" / "openai").is_dir():
        pytest.skip("scripts/test installs the JavaScript client into build/openai-js where npm can be had")
    assert int(run(node, HERE / "sdk_routes.mjs", JAVASCRIPT, *addresses).split(".")[0]) >= 6
