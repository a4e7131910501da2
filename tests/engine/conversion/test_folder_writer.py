"""A model folder is written whole or not at all, and what is read back is what was written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.load import load_tensors
from engine.conversion.errors import OutputBusy, OutputExists, OutputFull, OutputUnwritable
from engine.conversion.folder_writer import TensorSpec, write_folder, writing
from engine.errors import CheckpointError

ROOT = Path(__file__).parents[3]
CONFIG = {"model_type": "llama"}


def some_tensors() -> dict[str, mx.array]:
    kinds = (mx.float32, mx.float16, mx.bfloat16, mx.uint32)
    return {f"model.t{i}.weight": mx.arange(12 * (i + 1)).reshape(-1, 4).astype(k) for i, k in enumerate(kinds)}


@pytest.mark.parametrize(("shard_bytes", "num_files"), [(10**9, 1), (150, 3), (200, 2)])
def test_what_is_written_is_read_back(tmp_path, shard_bytes, num_files):
    tensors = some_tensors()
    write_folder(tmp_path / "out", CONFIG, tensors, {"tokenizer.json": b"{}"}, shard_bytes=shard_bytes)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) == num_files
    assert (tmp_path / "out" / "model.safetensors.index.json").exists() == (num_files > 1)
    found = dict(load_tensors(open_checkpoint(tmp_path / "out")))
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == tensors[name].dtype for name in tensors)
    assert all(mx.array_equal(found[name], tensors[name]) for name in tensors)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == b"{}"
    for file in files:
        with safe_open(file, "numpy") as opened:
            assert opened.metadata() == {"format": "pt"}


def test_tensors_may_come_in_any_order_and_in_pieces(tmp_path):
    rows = np.arange(60, dtype=np.float32).reshape(10, 6)
    specs = [TensorSpec("a", (10, 6), mx.float32), TensorSpec("b", (), mx.float32)]
    with writing(tmp_path / "out", specs, CONFIG) as writer:
        writer.write("b", mx.array(7.0))
        writer.write("a", rows[4:], first_row=4)
        writer.write("a", rows[:4])
    found = dict(load_tensors(open_checkpoint(tmp_path / "out")))
    np.testing.assert_array_equal(np.array(found["a"]), rows)
    assert found["b"].item() == 7.0


def test_a_failure_inside_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "out", [], CONFIG):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_lies_at_the_target_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExists, match="out is there already"):
        write_folder(tmp_path / "out", CONFIG, some_tensors())
    assert list((tmp_path / "out").iterdir()) == []


def test_two_writers_of_one_place_are_told_apart(tmp_path):
    with writing(tmp_path / "out", [], CONFIG), pytest.raises(OutputBusy, match="another process is writing out"):
        write_folder(tmp_path / "out", CONFIG, some_tensors())
    assert (tmp_path / "out" / "config.json").exists()


def test_a_disk_without_room_is_found_before_anything_is_written(tmp_path):
    specs = [TensorSpec("a", (1 << 20,), mx.float32)]
    with (
        pytest.raises(OutputFull, match="21 MB of disk space are needed, and 5 MB are free"),
        writing(tmp_path / "out", specs, CONFIG, free_bytes=lambda _: 5_000_000),
    ):
        pytest.fail("the block ran")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputUnwritable, match="out cannot be written"):
        write_folder(tmp_path / "file" / "out", CONFIG, some_tensors())


SLOW_WRITER = """
import sys, time, pathlib, mlx.core as mx
from engine.conversion.folder_writer import TensorSpec, writing
specs = [TensorSpec(f"t{i}", (64, 64), mx.float32) for i in range(40)]
print("ready", flush=True)
with writing(pathlib.Path(sys.argv[1]), specs, {"model_type": "llama"}) as writer:
    for spec in specs:
        writer.write(spec.name, mx.ones(spec.shape))
        time.sleep(0.1)
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_writer_leaves_no_model(tmp_path, kind):
    target = tmp_path / "out"
    for pause in (0.05, 0.3, 0.6):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW_WRITER, str(target)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(kind)
        process.wait()
        process.stdout.close()
        assert not target.exists()
        for left in tmp_path.iterdir():
            assert left.name.startswith(".")
            with pytest.raises(CheckpointError):
                open_checkpoint(left)
    write_folder(target, CONFIG, some_tensors())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((target / "config.json").read_text()) == CONFIG
