"""Programs end with the process that has started them, however that ends."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.companion import run

ROOT = Path(__file__).parents[2]
# Starts a program that starts another, and says when both run.
SLEEPERS = ["sh", "-c", "sleep 1000 & echo started; wait"]
PARENT = f"""
from engine.companion import Companion
with Companion({SLEEPERS!r}) as companion:
    companion.output.readline()
    print("started", flush=True)
    companion.process.wait()
"""


def test_a_program_gives_its_exit_code_and_output():
    assert run(["sh", "-c", "echo out; echo err >&2; exit 7"], 60) == (7, "out\nerr\n")
    exit_code, output = run(["/no/such/program"], 60)
    assert (exit_code, "No such file" in output) == (127, True)


def test_a_program_that_takes_too_long_ends_with_what_it_has_started():
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(subprocess.TimeoutExpired):
        run(SLEEPERS, 1)
    assert not set(psutil.Process().children(recursive=True)) - before


def test_programs_end_with_a_parent_that_is_killed():
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "started\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(children) >= 3
    deadline = time.monotonic() + 60
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
