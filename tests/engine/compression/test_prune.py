"""A pruned folder computes what the old model does without the parts that were left out."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from engine.attention.uncached_batch import UncachedBatch
from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.load import load_tensors
from engine.compression.prune import PruningSettings, prune
from engine.compression.stack import layers_of
from engine.conversion.errors import OutputExists
from engine.device import prepare_device
from engine.errors import ChoiceInvalid
from engine.evaluation.errors import ModelUnfit

ROOT = Path(__file__).parents[3]
IDS = [3, 17, 4, 9, 1, 25, 8, 2, 11, 30, 6, 5, 19, 44, 71, 90, 12, 33]
DECODERS = [
    "cohere2",
    "gemma2",
    "gemma3",
    "gemma3-older-keys",
    "gpt-neox",
    "gpt-oss",
    "gpt2",
    "granite",
    "llama",
    "llama-bias",
    "llama-dynamic",
    "mistral",
    "mixtral",
    "olmo2",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3-moe",
    "smollm3",
    "starcoder2",
]


def logits(model, layers=None) -> np.ndarray:
    stack = layers_of(model, "")
    whole = list(stack)
    stack[:] = whole if layers is None else [whole[layer] for layer in layers]
    hidden = model(mx.array(IDS)[None], UncachedBatch(model.cache, [len(IDS)]))
    stack[:] = whole
    return np.array(model.logits(hidden)[0])


def pruned(source: Path, target: Path, text, **settings):
    return prune(source, target, text, PruningSettings(window_tokens=32, **settings), prepare_device("off"))


@pytest.mark.parametrize("name", DECODERS)
def test_without_a_layer_every_family_computes_as_without_that_layer(readable, load, text, tmp_path, name):
    original = load(readable(name))
    found = pruned(readable(name), tmp_path / "out", text, keep_layers=len(original.windows) - 1)
    (removed,) = found.removed_layers
    assert found.influence[removed] == min(found.influence)
    kept = [layer for layer in range(found.num_layers) if layer != removed]
    np.testing.assert_allclose(logits(load(tmp_path / "out")), logits(original, kept), atol=1e-5)
    assert found.num_parameters[1] < found.num_parameters[0]


@pytest.mark.parametrize("name", ["llama", "llama-bias", "gemma2", "qwen3", "granite"])
def test_without_neurons_the_model_computes_as_if_they_were_silent(readable, load, text, tmp_path, name):
    found = pruned(readable(name), tmp_path / "out", text, sparsity=0.4, parts=("mlp",))
    assert found.inner_size == (80, 48)
    assert found.kv_heads is None
    original, smaller = load(readable(name)), load(tmp_path / "out")
    for old, new in zip(layers_of(original, name), layers_of(smaller, name), strict=True):
        kept = np.array(old.mlp.gate_proj.weight)[:, None] == np.array(new.mlp.gate_proj.weight)[None]
        silent = ~kept.all(-1).any(1)
        assert silent.sum() == 32
        old.mlp.down_proj.weight = mx.where(mx.array(silent), 0.0, old.mlp.down_proj.weight)
    np.testing.assert_allclose(logits(smaller), logits(original), atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "llama-bias", "llama-head-dim", "qwen3", "qwen2"])
def test_without_groups_of_heads_the_model_computes_as_if_they_were_silent(readable, load, text, tmp_path, name):
    found = pruned(readable(name), tmp_path / "out", text, sparsity=0.5, parts=("attention",))
    assert found.kv_heads == (2, 1)
    original, smaller = load(readable(name)), load(tmp_path / "out")
    for old, new in zip(layers_of(original, name), layers_of(smaller, name), strict=True):
        columns = np.array(old.self_attn.o_proj.weight)
        half = columns.shape[1] // 2
        first = np.array_equal(columns[:, :half], np.array(new.self_attn.o_proj.weight))
        assert first or np.array_equal(columns[:, half:], np.array(new.self_attn.o_proj.weight))
        silent = mx.arange(2 * half) >= half if first else mx.arange(2 * half) < half
        old.self_attn.o_proj.weight = mx.where(silent, 0.0, old.self_attn.o_proj.weight)
    np.testing.assert_allclose(logits(smaller), logits(original), atol=1e-5)


def test_what_is_left_out_is_what_matters_least(readable, load, text, tmp_path):
    """Neurons that say nothing go first, wherever they are."""
    import shutil

    shutil.copytree(readable("llama"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = mx.load(str(file))
    loud = mx.arange(80) % 5 != 0
    for name in list(weights):
        if "gate_proj" in name:
            weights[name] = weights[name] * loud[:, None]
    mx.save_safetensors(str(file), weights)
    pruned(tmp_path / "model", tmp_path / "out", text, sparsity=0.2, parts=("mlp",))
    np.testing.assert_allclose(logits(load(tmp_path / "out")), logits(load(tmp_path / "model")), atol=1e-5)


def test_packed_weights_stay_packed_and_unchanged(starter_model, text, tmp_path):
    settings = PruningSettings(keep_layers=28, sparsity=0.3, max_tokens=64)
    found = prune(starter_model, tmp_path / "out", text, settings, prepare_device("native"))
    assert found.inner_size == (1536, 1088)
    assert found.kv_heads == (3, 2)
    old, new = (open_checkpoint(each) for each in (starter_model, tmp_path / "out"))
    assert new.config["num_hidden_layers"] == 28
    assert new.config["num_attention_heads"] == 6
    layer = next(each for each in range(30) if each not in found.removed_layers)
    wanted = {
        f"model.layers.{layer}.mlp.{module}.{part}"
        for module in ("up_proj", "down_proj")
        for part in ("weight", "scales")
    }
    before = {name: np.array(array) for name, array in load_tensors(old) if name in wanted}
    after = {name: np.array(array) for name, array in load_tensors(new) if name.startswith("model.layers.0.mlp.")}
    up = before[f"model.layers.{layer}.mlp.up_proj.weight"]
    kept = [int(np.flatnonzero((up == row).all(-1))[0]) for row in after["model.layers.0.mlp.up_proj.weight"]]
    assert kept == sorted(set(kept))
    np.testing.assert_array_equal(
        after["model.layers.0.mlp.up_proj.scales"], before[f"model.layers.{layer}.mlp.up_proj.scales"][kept]
    )
    groups = [number // 32 for number in kept[::32]]
    down = before[f"model.layers.{layer}.mlp.down_proj.weight"].reshape(576, 48, 4)[:, groups].reshape(576, -1)
    np.testing.assert_array_equal(after["model.layers.0.mlp.down_proj.weight"], down)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"keep_layers": 0}, "between 1 and 3"),
        ({"keep_layers": 4}, "between 1 and 3"),
        ({"sparsity": 0.99}, "between 0 and 0.95"),
        ({"sparsity": -0.1}, "between 0 and 0.95"),
        ({}, "say how many"),
        ({"sparsity": 0.001}, "too little"),
    ],
)
def test_values_that_make_no_sense_are_refused(readable, text, tmp_path, settings, words):
    with pytest.raises(ChoiceInvalid, match=words):
        pruned(readable("llama"), tmp_path / "out", text, **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gpt2-inverse-layer", {"keep_layers": 2}),
        ("gpt2", {"sparsity": 0.5}),
        ("phi3", {"sparsity": 0.5}),
        ("mixtral", {"sparsity": 0.5}),
        ("olmo2", {"sparsity": 0.5, "parts": ("attention",)}),
        ("gemma3n-text", {"keep_layers": 5}),
        ("gemma4-text", {"sparsity": 0.5}),
        ("bert", {"keep_layers": 1}),
        ("t5", {"keep_layers": 1}),
    ],
)
def test_families_that_cannot_be_cut_so_are_refused(readable, text, tmp_path, name, settings):
    with pytest.raises(ModelUnfit):
        pruned(readable(name), tmp_path / "out", text, **settings)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(readable, text, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExists):
        pruned(readable("llama"), tmp_path / "out", text, keep_layers=2)


def test_the_result_prunes_again(readable, text, tmp_path):
    pruned(readable("gemma3-older-keys"), tmp_path / "a", text, keep_layers=3)
    again = pruned(tmp_path / "a", tmp_path / "b", text, keep_layers=2)
    assert json.loads(json.dumps(asdict(again)))["num_layers"] == 3


def test_a_run_that_is_killed_anywhere_leaves_no_model(readable, text, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from engine.compression.prune import PruningSettings, prune\n"
        "from engine.evaluation.texts import Text\n"
        "from engine.device import prepare_device\n"
        "print('begun', flush=True)\n"
        "for number in range(1000):\n"
        "    target, text = Path(sys.argv[2]) / f'out{number}', Text('x', 'The river runs past the old mill. ' * 3)\n"
        "    prune(Path(sys.argv[1]), target, text, PruningSettings(2), prepare_device('off'))\n"
    )
    command = [sys.executable, "-c", code, str(readable("llama")), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(0.4)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    visible = [folder for folder in tmp_path.iterdir() if not folder.name.startswith(".")]
    for folder in visible:
        assert open_checkpoint(folder).config["num_hidden_layers"] == 2
        assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
