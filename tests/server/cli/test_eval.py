"""Measuring from the command line: tables, JSON, charts, exit codes, and what Ctrl-C leaves."""

import json
import signal
import subprocess

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


def test_models_are_measured_into_json(bramley, readable, text):
    models = [readable("llama"), readable("qwen3")]
    result = bramley("eval", *models, "--against", models[0], "--text", text, "--window", 64, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert [each["name"] for each in found["models"]] == ["llama", "qwen3"]
    first, second = found["models"]
    assert first["agreement"] == 1.0
    assert second["divergence"] > 0.01
    assert not first["partial"]
    assert first["num_tokens"] == first["total_tokens"] == len(SENTENCE) * 8 - 8  # one token of each window is given
    assert "reading" in result.stderr


def test_models_are_drawn_into_a_chart(bramley, readable, text, tmp_path):
    pytest.importorskip("matplotlib")
    chart = tmp_path / "chart.png"
    result = bramley("eval", readable("llama"), readable("qwen3"), "--text", text, "--window", 64, "--chart", chart)
    assert result.returncode == 0, result.stderr
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert len(result.stdout.splitlines()) == 2


def test_a_table_for_people_has_a_line_per_model(bramley, readable, text):
    result = bramley("eval", readable("llama"), "--text", text, "--window", 64)
    (row,) = (line.split("\t") for line in result.stdout.splitlines())  # a pipe gets no headings, as from `ls`
    assert row[0] == "llama"
    assert len(row) == 7


def test_an_interrupt_shows_what_was_measured_and_marks_it(environment, readable, text):
    text.write_text(SENTENCE * 40_000)
    command = [*MAIN, "eval", readable("llama"), "--text", text, "--window", "64"]
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while "reading" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, notes = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "(partial)" in output
    assert "partial, of the first" in notes


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--text", "nowhere.txt"], 3, "nowhere.txt cannot be used"),
        (["--window", "4000"], 2, "context of llama"),
        (["--chart", "nowhere/chart.png"], 1, "no such folder"),
        (["--against", "./nowhere"], 1, "does not exist"),
        (["--max-tokens", "1"], 2, "max-tokens"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(bramley, readable, text, options, code, words):
    result = bramley("eval", readable("llama"), *options)
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
