"""Distilling from the command line: the curve, the chart, going on after Ctrl-C, and the exit codes."""

import json
import signal
import subprocess
from importlib.util import find_spec

import pytest

from tests.server.cli.conftest import MAIN, ROOT

SENTENCE = "The river runs past the old mill, and nobody counts the boats.\n"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "river.txt"
    path.write_text(SENTENCE * 8)
    return path


@pytest.fixture(autouse=True)
def _without_kernels(environment):
    environment["BRAMLEY_KERNELS"] = "off"


def test_a_student_from_scratch_is_taught_drawn_and_listed(bramley, readable, text, tmp_path):
    chart = tmp_path / "loss.png"
    options = ["--layers", 1, "--hidden-size", 32, "--window", 32, "--steps", 30, "--text", text]
    drawn = ["--chart", chart] if find_spec("matplotlib") else []
    result = bramley("distill", readable("llama"), *options, *drawn)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("step      1  loss")
    assert "trained for 30 steps" in lines[-1]
    assert not drawn or chart.read_bytes().startswith(b"\x89PNG")
    assert bramley("ls").stdout.split("\t")[0] == "llama-distilled"


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(bramley, environment, readable, text, tmp_path):
    options = [
        "--student",
        readable("llama"),
        "--window",
        32,
        "--steps",
        120,
        "--rows",
        1,
        "--text",
        text,
        "-o",
        tmp_path / "out",
    ]
    command = list(map(str, [*MAIN, "distill", readable("llama"), *options]))
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE)
    while "teaching" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, notes = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from there" in notes
    assert not (tmp_path / "out").exists()
    result = bramley("distill", readable("llama"), *options, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["resumed_at"] > 0
    assert len(found["losses"]) == 120
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".training")]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "say either --student"),
        (["--layers", "9", "--hidden-size", "32"], 2, "between 1 and 3"),
        (["--student", "./nowhere"], 1, "nowhere"),
        (["--layers", "1", "--hidden-size", "32", "--learning-rate", "9"], 2, "learning-rate"),
        (["--layers", "1", "--hidden-size", "32", "--text", "nowhere.txt"], 3, "nowhere.txt cannot be used"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(bramley, readable, tmp_path, options, code, words):
    result = bramley("distill", readable("llama"), "-o", tmp_path / "out", *options)
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
