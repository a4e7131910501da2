"""Teaching: gradients are true, runs that were ended go on as if they had not been, and the product is a model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.compression.distill import Distilled, distill
from engine.compression.float_model import FloatModel, float_device
from engine.compression.losses import distillation_loss
from engine.compression.prune import PruningSettings, prune
from engine.compression.student import Scratch, open_student
from engine.compression.training_settings import TrainingSettings
from engine.conversion.errors import OutputBusy, OutputExists
from engine.device import Device, prepare_device
from engine.engine import Engine
from engine.errors import CheckpointError, ChoiceInvalid
from engine.evaluation.decoder import load_decoder
from engine.evaluation.errors import ModelsDiffer, TextUnusable, TrainingDiffers, TrainingDiverged, TrainingStopped
from engine.evaluation.evaluate import EvaluationSettings, evaluate
from engine.sampling.params import SamplingParams
from engine.settings import EngineSettings

ROOT = Path(__file__).parents[3]
SHORT = TrainingSettings(steps=12, learning_rate=3e-3, window_tokens=32, rows=4, rows_at_once=2, save_seconds=0.0)


@pytest.fixture(scope="module")
def pruned_llama(readable, text, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("pruned") / "student"
    prune(readable("llama"), target, text, PruningSettings(2, window_tokens=32), prepare_device("off"))
    return target


@pytest.fixture
def teach(readable, text, pruned_llama, tmp_path):
    def run(settings=SHORT, student=pruned_llama, name="out", teacher="llama", **options) -> Distilled:
        target = tmp_path / name
        work = tmp_path / f".{name}.training"
        device = prepare_device("off")
        return distill(readable(teacher), student, target, work, text, settings, device, **options)

    return run


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in mx.load(str(folder / "model.safetensors")).items()}


def divergence(folder: Path, teacher: Path, text) -> float:
    device = prepare_device("off")
    settings = EvaluationSettings(window_tokens=32)
    return evaluate(load_decoder(folder, device), load_decoder(teacher, device), text, settings).divergence


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        *((name, "") for name in ("llama", "llama-bias", "qwen3", "gemma2", "gpt2", "phi3", "gpt-neox")),
        ("mixtral", "layers.1.block_sparse_moe.switch_mlp"),  # where no other experts are chosen
    ],
)
def test_gradients_are_what_a_small_difference_shows(readable, load, name, moved):
    model = FloatModel(load(readable(name)), prepare_device("off"), mx.float32)
    weights, ids = model.parameters(), mx.array([[3, 17, 4, 9, 1, 25, 8, 2], [5, 6, 7, 8, 30, 1, 2, 3]])
    wanted = mx.random.normal((2, 8, 96), key=mx.random.key(1))

    def loss(own):
        return distillation_loss(model.logits(own, ids), wanted, ids, 2.0, 0.3)

    value, gradients = mx.value_and_grad(loss)(weights)
    mx.eval(value, gradients)
    assert gradients.keys() == weights.keys()
    moving = {key: array for key, array in weights.items() if moved in key}
    direction = {key: mx.random.normal(array.shape, key=mx.random.key(7)) for key, array in moving.items()}
    slope = sum(float(mx.sum(gradients[key] * direction[key]).item()) for key in moving)
    step = 1e-3
    above, below = (
        float(loss(weights | {key: array + sign * step * direction[key] for key, array in moving.items()}).item())
        for sign in (1, -1)
    )
    assert (above - below) / (2 * step) == pytest.approx(slope, rel=0.05, abs=2e-3)


def test_half_precision_computes_while_weights_and_gradients_stay_in_float32(readable, load):
    whole, half = (
        FloatModel(load(readable("gemma2")), prepare_device("off"), each) for each in (mx.float32, mx.bfloat16)
    )
    weights, ids = whole.parameters(), mx.array([[3, 17, 4, 9, 1, 25, 8, 2]])
    wanted = mx.random.normal((1, 8, 96), key=mx.random.key(1))
    found = []
    for model in (whole, half):
        gradients = mx.grad(lambda own, model=model: distillation_loss(model.logits(own, ids), wanted, ids, 1.0, 0.0))(
            weights
        )
        assert {array.dtype for array in gradients.values()} == {mx.float32}
        found.append(np.concatenate([np.array(gradients[name]).reshape(-1) for name in sorted(gradients)]))
    exact, rounded = found
    assert not np.array_equal(exact, rounded)
    assert exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded) > 0.99


def test_packed_weights_are_expanded_where_the_device_would_keep_them(starter_model):
    device = float_device(Device("metal", None, "", ""))
    student, _ = open_student(starter_model, device, mx.float32, lambda _: None)
    assert {array.dtype for array in student.weights.values()} == {mx.float32}
    assert student.weights["model.layers.0.mlp.up_proj.weight"].shape == (1536, 576)


def test_a_pruned_student_comes_nearer_to_its_teacher(readable, text, pruned_llama, teach, tmp_path):
    done = teach(replace(SHORT, steps=30))
    assert done.resumed_at == 0
    assert len(done.losses) == 30
    assert np.mean(done.losses[-5:]) < 0.7 * done.losses[0]
    assert done.num_trained < done.num_parameters
    before, after = (divergence(path, readable("llama"), text) for path in (pruned_llama, tmp_path / "out"))
    assert after < 0.7 * before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_token_tables_stay_as_they_are_unless_they_are_asked_for(teach, pruned_llama, tmp_path):
    teach()
    teach(replace(SHORT, tables=True), name="all")
    old, kept, trained = (weights(each) for each in (pruned_llama, tmp_path / "out", tmp_path / "all"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        np.testing.assert_array_equal(kept[name], old[name])
        assert not np.array_equal(trained[name], old[name])
    assert not np.array_equal(kept["model.norm.weight"], old["model.norm.weight"])


def test_gathered_gradients_are_those_of_the_whole_step(teach, tmp_path):
    for name, rows in (("a", 1), ("b", 3), ("c", 4)):
        teach(replace(SHORT, rows_at_once=rows, steps=3), name=name)
    first, *others = (weights(tmp_path / name) for name in "abc")
    for other in others:
        for name, array in first.items():
            np.testing.assert_allclose(other[name], array, atol=2e-4)


def test_a_student_from_scratch_learns_and_is_an_ordinary_model(readable, teach, tmp_path):
    done = teach(replace(SHORT, steps=40, cross_entropy=0.5), student=Scratch(1, 32))
    assert np.mean(done.losses[-5:]) < 0.9 * done.losses[0]
    assert done.num_trained == done.num_parameters
    config = open_checkpoint(tmp_path / "out").config
    assert (config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]) == (1, 32, 4)
    engine = Engine(tmp_path / "out", EngineSettings(kernels="off", kv_bytes=1 << 20, prefix_bytes=0))
    assert engine.generate([[1, 2, 3]], SamplingParams(max_tokens=4))


def test_a_run_that_was_ended_goes_on_as_if_it_had_not_been(teach, tmp_path):
    whole = teach(name="whole")
    asked = iter([False] * 9 + [True] * 9)  # half-way through the fifth step
    with pytest.raises(TrainingStopped) as stopped:
        teach(stop=lambda: next(asked))
    assert stopped.value.step == 4
    assert not (tmp_path / "out").exists()
    with pytest.raises(TrainingDiffers, match="learning rate"):
        teach(replace(SHORT, learning_rate=1e-3))
    done = teach()
    assert done.resumed_at == 4
    assert done.losses == pytest.approx(whole.losses, rel=1e-4)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "out")
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, atol=1e-4)


def test_a_run_can_be_begun_afresh(teach):
    asked = iter([False] * 5 + [True] * 9)
    with pytest.raises(TrainingStopped):
        teach(stop=lambda: next(asked))
    assert teach(replace(SHORT, steps=2), restart=True).resumed_at == 0


def test_a_damaged_saved_step_is_an_error_and_no_crash(teach, tmp_path):
    asked = iter([False] * 5 + [True] * 9)
    with pytest.raises(TrainingStopped):
        teach(stop=lambda: next(asked))
    (file,) = (tmp_path / ".out.training").glob("step-*/model.safetensors")
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="damaged"):
        teach()


def test_killed_runs_leave_no_model_and_go_on(readable, pruned_llama, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from engine.compression.distill import distill\n"
        "from engine.evaluation.texts import Text\n"
        "from engine.compression.training_settings import TrainingSettings\n"
        "from engine.device import prepare_device\n"
        "teacher, student, folder = map(Path, sys.argv[1:])\n"
        "text = Text('x', 'The river runs past the old mill. ' * 9)\n"
        "settings = TrainingSettings(steps=60, window_tokens=32, rows=1, save_seconds=0.0)\n"
        "done = distill(teacher, student, folder / 'out', folder / '.out.training', text, settings,\n"
        "    prepare_device('off'), report=lambda each: print(each.stage, flush=True))\n"
        "print('at', done.resumed_at, len(done.losses))\n"
    )
    command = [sys.executable, "-c", code, str(readable("llama")), str(pruned_llama), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while "teaching" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == [".out.training"]
    for folder in (tmp_path / ".out.training", *(tmp_path / ".out.training").iterdir()):
        with pytest.raises(CheckpointError):
            open_checkpoint(folder)
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    _, resumed_at, num_steps = output.splitlines()[-1].split()
    assert int(resumed_at) > 0
    assert int(num_steps) == 60
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_runs_for_one_model_do_not_meet(teach, tmp_path):
    from engine.compression.training_state import open_training_folder

    with open_training_folder(tmp_path / ".out.training", "out", {}), pytest.raises(OutputBusy):
        teach()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps"),
        ({"learning_rate": 7.0}, "learning-rate"),
        ({"temperature": 0.0}, "temperature"),
        ({"cross_entropy": 1.5}, "cross-entropy"),
        ({"window_tokens": 4}, "window"),
        ({"rows_at_once": 9}, "rows-at-once"),
        ({"minutes": -1.0}, "minutes"),
    ],
)
def test_values_that_make_no_sense_are_refused(teach, tmp_path, change, words):
    with pytest.raises(ChoiceInvalid, match=words):
        teach(replace(SHORT, **change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scratch", [Scratch(0, 32), Scratch(4, 32), Scratch(1, 20), Scratch(1, 4096)])
def test_sizes_from_scratch_that_do_not_fit_the_teacher_are_refused(teach, scratch):
    with pytest.raises(ChoiceInvalid):
        teach(student=scratch)


def test_what_cannot_be_taught_is_refused(teach, readable, tmp_path, text):
    with pytest.raises(TextUnusable, match="single window"):
        teach(replace(SHORT, window_tokens=4096))
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExists):
        teach()
    small = tmp_path / "small"
    shutil.copytree(readable("llama"), small)
    tokenizer = json.loads((small / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (small / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelsDiffer):
        teach(student=small, name="other")


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_step_before(readable, teach, tmp_path):
    shutil.copytree(readable("llama"), tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    broken = mx.load(str(file))
    broken["model.norm.weight"] = broken["model.norm.weight"] * mx.nan
    mx.save_safetensors(str(file), broken)
    with pytest.raises(TrainingDiverged, match="step 1"):
        teach(student=tmp_path / "broken", name="out")
    assert not (tmp_path / "out").exists()
