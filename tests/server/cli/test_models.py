"""`show` and `verify`: what a model's files say, and whether they are what they were."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.progress import Progress
from server.terminal.transfer import TransferSpeed

FIXTURES = Path(__file__).parents[2] / "engine" / "architectures" / "fixtures"
REVISION = "0123456789" * 4


@pytest.fixture
def stored(bramley, environment):
    """A real model of two layers in the store; returns its folder."""
    result = bramley("pull", FIXTURES / "qwen3-embedding")
    assert result.returncode == 0, result.stderr
    return Path(environment["BRAMLEY_MODELS_DIR"]) / "qwen3-embedding"


def test_model_is_described_from_its_headers(bramley, stored):
    shown = json.loads(bramley("show", "qwen3-embedding", "--json").stdout)
    assert shown["path"] == str(stored)
    numbers = {name: shown[name] for name in ("model_type", "num_layers", "hidden_size", "vocab_size", "trouble")}
    assert numbers == {"model_type": "qwen3", "num_layers": 2, "hidden_size": 48, "vocab_size": 96, "trouble": ""}
    assert {"name": "config.json", "bytes": (stored / "config.json").stat().st_size} in shown["files"]


def test_parameters_of_a_packed_model_are_those_before_packing(bramley, tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "quantization": {"group_size": 32, "bits": 4}}')
    tensors = {
        "lm_head.weight": np.zeros((8, 4), np.uint32),
        "lm_head.scales": np.zeros((8, 1), np.float16),
        "lm_head.biases": np.zeros((8, 1), np.float16),
        "model.norm.weight": np.zeros(5, np.float16),
    }
    save_file(tensors, folder / "model.safetensors")
    shown = json.loads(bramley("show", folder, "--json").stdout)
    assert shown["num_parameters"] == 8 * 32 + 5
    assert shown["quantization"] == "4-bit affine"


def test_description_is_lines_in_a_pipe(bramley, stored):
    lines = dict(line.split("\t") for line in bramley("show", "qwen3-embedding").stdout.splitlines())
    assert lines["model"] == "qwen3-embedding"
    assert lines["layers"] == "2"


def test_a_whole_model_is_verified(bramley, stored):
    result = bramley("verify")
    assert result.returncode == 0
    assert result.stdout.startswith("qwen3-embedding is whole: ")
    assert "verifying" in result.stderr


def test_a_flipped_bit_is_found(bramley, stored):
    weights = stored / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    result = bramley("verify", "qwen3-embedding")
    assert result.returncode == 3
    assert "model.safetensors has another checksum than when it came" in result.stdout
    (row,) = json.loads(bramley("verify", "--json").stdout)
    assert [each["file"] for each in row["damaged"]] == ["model.safetensors"]


def test_missing_and_cut_files_are_found_though_the_model_is_not_listed(bramley, stored):
    (stored / "modules.json").unlink()
    weights = (stored / "model.safetensors").read_bytes()
    (stored / "model.safetensors").write_bytes(weights[:-1])
    assert bramley("ls").stdout == ""
    result = bramley("verify")
    assert result.returncode == 3
    assert f"model.safetensors is {len(weights) - 1} bytes long, not {len(weights)}" in result.stdout
    assert "modules.json is missing" in result.stdout


def test_a_model_of_the_hubs_cache_is_held_against_the_names_of_its_blobs(bramley, environment):
    repository = Path(environment["HF_HOME"]) / "hub" / "models--org--tiny"
    snapshot, blobs = repository / "snapshots" / REVISION, repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        source = FIXTURES / "llama" / name
        content = source.read_bytes() if source.exists() else b"{}"
        git = subprocess.run(["git", "hash-object", "--stdin"], input=content, capture_output=True, check=True).stdout
        blob = blobs / (hashlib.sha256(content).hexdigest() if name.endswith("safetensors") else git.decode().strip())
        blob.write_bytes(content)
        (snapshot / name).symlink_to(blob)
    assert bramley("verify", "org/tiny").returncode == 0
    blob = (snapshot / "config.json").resolve()
    blob.write_bytes(blob.read_bytes().replace(b"llama", b"llamb"))
    result = bramley("verify", "org/tiny")
    assert result.returncode == 3
    assert "config.json has another checksum" in result.stdout


def test_a_model_that_is_not_here_cannot_be_verified(bramley):
    result = bramley("verify", "smollm2-135m")
    assert result.returncode == 1
    assert "There is no model" in result.stderr


def test_the_speed_of_a_transfer_counts_from_where_this_attempt_began():
    times = iter([0.0, 0.0, 2.0, 2.0])
    speed = TransferSpeed(lambda: next(times))
    assert speed.update(Progress("downloading", 600, 1000, "bytes")) is None
    assert speed.update(Progress("downloading", 800, 1000, "bytes")) == (100.0, 2.0)


def test_the_shell_completes_commands_and_names_of_models(stored, environment):
    program = Path(sys.executable).with_name("bramley")

    def completed(words):
        asked = {"_BRAMLEY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        result = subprocess.run([program], env=environment | asked, capture_output=True, text=True, check=False)
        return result.stdout.split()

    assert completed("bramley ver") == ["verify", "version"]
    assert completed("bramley show qw") == ["qwen3-embedding"]
    assert completed("bramley rm x") == []
