"""Pruning from the command line: what is said, what is written, and the exit codes."""

import json

import pytest

SENTENCE = "The river runs past the old mill, and nobody counts the boats.\n"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "river.txt"
    path.write_text(SENTENCE * 8)
    return path


@pytest.fixture(autouse=True)
def _without_kernels(environment):
    environment["BRAMLEY_KERNELS"] = "off"


def test_a_pruned_model_is_said_to_be_smaller_and_can_be_measured(bramley, readable, text, tmp_path):
    output = tmp_path / "smaller"
    result = bramley("prune", readable("llama"), "-o", output, "--keep-layers", 2, "--text", text)
    assert result.returncode == 0, result.stderr
    assert "Layers: 3 to 2, without" in result.stdout
    assert "  removed" in result.stdout
    measured = bramley("eval", output, "--text", text, "--window", 64)
    assert measured.returncode == 0, measured.stderr
    again = bramley("prune", output, "-o", tmp_path / "narrow", "--sparsity", 0.5, "--text", text, "--json")
    found = json.loads(again.stdout)
    assert found["inner_size"] == [80, 32]
    assert found["kv_heads"] == [2, 1]
    assert found["num_parameters"][1] < found["num_parameters"][0]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--keep-layers", "7"], 2, "between 1 and 3"),
        (["--sparsity", "2"], 2, "between 0 and 0.95"),
        ([], 2, "say how many layers"),
        (["--keep-layers", "2", "--text", "nowhere.txt"], 3, "nowhere.txt cannot be used"),
        (["--keep-layers", "2", "--only", "embeddings"], 2, "only"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(bramley, readable, tmp_path, options, code, words):
    result = bramley("prune", readable("llama"), "-o", tmp_path / "smaller", *options)
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "smaller").exists()


def test_a_damaged_source_is_said_so(bramley, readable, tmp_path, text):
    import shutil

    shutil.copytree(readable("llama"), tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    result = bramley("prune", tmp_path / "damaged", "-o", tmp_path / "out", "--keep-layers", 2, "--text", text)
    assert result.returncode == 3
    assert "damaged" in result.stderr
    assert not (tmp_path / "out").exists()


def test_without_an_output_the_result_is_in_the_store(bramley, readable, text):
    result = bramley("prune", readable("llama"), "--keep-layers", 2, "--text", text)
    assert result.returncode == 0, result.stderr
    assert bramley("ls").stdout.split("\t")[0] == "llama-pruned"
    again = bramley("prune", readable("llama"), "--keep-layers", 2, "--text", text)
    assert again.returncode != 0
    assert "llama-pruned" in again.stderr
