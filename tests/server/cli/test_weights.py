"""`bramley quantize` and `bramley convert`: what they leave behind when they succeed, fail and are killed."""

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.errors import CheckpointError

ROOT = Path(__file__).parents[3]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def weights() -> dict[str, mx.array]:
    shapes = {"model.embed_tokens.weight": (96, 64), "model.norm.weight": (64,)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{each}_proj.weight": (64, 64) for each in "qkvo"}
        shapes |= {f"{prefix}.mlp.{each}_proj.weight": (128, 64) for each in ("gate", "up")}
        shapes |= {f"{prefix}.mlp.down_proj.weight": (64, 128)}
        shapes |= {f"{prefix}.{each}_layernorm.weight": (64,) for each in ("input", "post_attention")}
    return {name: mx.random.normal(shape).astype(mx.bfloat16) for name, shape in shapes.items()}


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    mx.save_safetensors(str(folder / "model.safetensors"), weights())
    return folder


def listed(bramley) -> list[str]:
    return [each["id"] for each in json.loads(bramley("ls", "--json").stdout)]


def test_a_quantised_model_is_listed_and_loads(bramley, model, tmp_path):
    result = bramley("quantize", model, "--bits", 4, "--group-size", 32)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "tiny-4bit is here: 57.2 kB, 5.18 bits per weight, 15 matrices packed.\n"
    assert "tiny: writing, 0 of 0 MB" in result.stderr
    assert listed(bramley) == ["tiny-4bit"]
    checkpoint = open_checkpoint(tmp_path / "models" / "tiny-4bit")
    assert {(how.bits, how.group_size) for how in checkpoint.quantization.values()} == {(4, 32), (6, 32)}


def test_a_path_may_be_given_and_float_comes_back(bramley, model, tmp_path):
    assert bramley("quantize", model, "--mode", "mxfp8", "-o", tmp_path / "small").returncode == 0
    result = bramley("convert", tmp_path / "small", "--dequantize", "--dtype", "float16", "-o", tmp_path / "large")
    assert result.returncode == 0, result.stderr
    large = open_checkpoint(tmp_path / "large")
    assert not large.quantization
    assert {entry.dtype for entry in large.tensors.values()} == {"F16"}
    assert large.config["torch_dtype"] == "float16"
    assert (tmp_path / "large" / "tokenizer.json").exists()
    assert listed(bramley) == []


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--group-size", 48), 2, "group size: 48 is not one of 64, 32, 128, which affine can have"),
        (("--bits", 7), 2, "bits: 7 is not one of 4, 2, 3, 5, 6, 8, which affine can have"),
        (("--mode", "nvfp4", "--bits", 8), 2, "bits: 8 is not one of 4, which nvfp4 can have"),
        (("--group-size", 128), 0, ""),
    ],
)
def test_what_cannot_be_is_told_in_one_line(bramley, model, arguments, code, sentence):
    result = bramley("quantize", model, *arguments)
    assert result.returncode == code
    if code:
        assert result.stderr == f"bramley: {sentence}\n"
        assert listed(bramley) == []


def test_each_fault_of_the_source_has_its_own_code(bramley, model, tmp_path):
    shutil.copytree(model, tmp_path / "short")
    with (tmp_path / "short" / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    damaged = bramley("quantize", tmp_path / "short")
    shutil.copytree(model, tmp_path / "strange")
    (tmp_path / "strange" / "config.json").write_text(json.dumps(CONFIG | {"model_type": "strange"}))
    unknown = bramley("quantize", tmp_path / "strange")
    missing = bramley("quantize", tmp_path / "nothing")
    assert [damaged.returncode, unknown.returncode, missing.returncode] == [3, 6, 1]
    for result in (damaged, unknown, missing):
        assert result.stderr.startswith("bramley: ")
        assert result.stderr.count("\n") == 1


def test_a_pickle_is_refused_with_the_reason_and_the_way_out(bramley, model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    result = bramley("convert", model)
    assert result.returncode == 6
    assert "this file is a Python pickle, which may run code when it is read" in result.stderr
    assert "safe_serialization=True" in result.stderr


def test_a_full_disk_is_one_line_and_leaves_nothing(environment, model, tmp_path):
    """The file system's own limit stands in for the disk's end: writing beyond it fails in the middle of a file."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    target = tmp_path / "out"
    result = subprocess.run(
        [sys.executable, "-m", "server.cli.app", "quantize", str(model), "-o", str(target)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "bramley: out cannot be written (File too large)"
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_leaves_nothing_that_looks_like_a_model(bramley, environment, model, tmp_path, kind):
    """Killed at points drawn from the whole run, the beginning and the end included."""
    command = [sys.executable, "-m", "server.cli.app", "quantize", str(model)]
    started = time.monotonic()
    assert bramley("quantize", model, "-o", tmp_path / "whole").returncode == 0
    seconds = time.monotonic() - started
    draw = random.Random(kind)
    for _ in range(5):
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(seconds * draw.uniform(0.5, 1.0))
        process.send_signal(kind)
        finished = process.wait() == 0
        store = tmp_path / "models"
        visible = [path for path in store.iterdir() if not path.name.startswith(".")] if store.exists() else []
        assert visible or not finished
        for path in visible:
            assert open_checkpoint(path).num_bytes == open_checkpoint(tmp_path / "whole").num_bytes
            shutil.rmtree(path)
    for path in tmp_path.glob("models/.partial/*/new/*"):
        with pytest.raises(CheckpointError):
            open_checkpoint(path)
    assert bramley("quantize", model).returncode == 0
    assert listed(bramley) == ["tiny-4bit"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--target-size", "5MB"), "recipe: plain takes no target size and no text; mixed does"),
        (("--recipe", "mixed", "--bits", 4), "recipe: mixed chooses bits and mode by itself"),
        (
            ("--recipe", "mixed", "--target-size", "five"),
            "target size: 'five' is no size: one looks like 500MB or 4.2GB",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(bramley, model, arguments, sentence):
    result = bramley("quantize", model, *arguments)
    assert (result.returncode, result.stderr) == (2, f"bramley: {sentence}\n")
