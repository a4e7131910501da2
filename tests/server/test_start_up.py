"""How soon the server is there, and what it must not load for that."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
HEAVY = {"mlx", "tokenizers", "sentencepiece", "jinja2", "huggingface_hub", "numpy", "safetensors", "openai"}


def test_the_way_to_the_first_answer_imports_nothing_heavy():
    modules = "server.serve, server.app, server.http.listener"
    code = f"import sys, {modules}; print(*{{name.split('.')[0] for name in sys.modules}})"
    modules = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert not HEAVY & set(modules.split())


def test_the_worker_starts_before_the_web_is_imported():
    code = "import sys, server.serve; print(*{name.split('.')[0] for name in sys.modules})"
    modules = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert not {"fastapi", "uvicorn", "starlette"} & set(modules.split())


def test_health_answers_within_a_second_of_the_start(start_fake):
    def seconds_to_health() -> float:
        started = time.monotonic()
        server = start_fake(load={"seconds": 5})
        assert httpx.get(f"{server.url}/health").json()["status"] == "loading"
        return time.monotonic() - started

    assert min(seconds_to_health() for _ in range(3)) < 1.0


def test_the_printed_line_is_a_command_that_works(start_fake):
    server = start_fake(names=("printed",))
    line = server.wait_for(lambda: next((each for each in server.lines if each.strip().startswith("curl")), None))
    answer = subprocess.run(["sh", "-c", f"{line.strip()} -s"], check=True, capture_output=True, text=True).stdout
    assert "You said: What is the capital of France?" in answer
