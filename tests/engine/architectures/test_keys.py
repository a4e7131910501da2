"""Every key of every family's configuration, changed: the logits of transformers, or a refusal that names a key.

scripts/fixtures/keys.py stores the cases. A harmless key is one that changes no bit of what transformers computes.
"""

import base64
import importlib.util
import json
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from engine.attention.batch import Batch
from engine.attention.uncached_batch import UncachedBatch
from engine.cache.layout import Dense
from engine.cache.slots import lone_slot
from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.errors import CheckpointError
from engine.model import architecture_names, build_encoder, build_model

KEYS = Path(__file__).parent / "keys"
TOLERANCE = 1e-4
SAMPLE = 40  # one case in so many runs with the suite
LENGTH, TARGET_LENGTH, VOCAB = 40, 8, 48


def load_weights():
    spec = importlib.util.spec_from_file_location("key_weights", KEYS / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tensor


tensor = load_weights()


def cases(*, sampled: bool) -> list:
    found = []
    for path in sorted(KEYS.glob("*.json")):
        for number, case in enumerate(json.loads(path.read_text())["cases"]):
            name = f"{path.stem}-{json.dumps(case['change'], separators=(',', ':'))}"
            if not sampled or zlib.crc32(name.encode()) % SAMPLE == 0:
                found.append(pytest.param(path.stem, number, id=name))
    return found


def checkpoint_of(family: dict, case: dict, folder: Path) -> Path:
    """The model that transformers computed this case with."""
    folder.mkdir(exist_ok=True)
    shapes = family["layouts"][case["layout"]]
    mx.save_safetensors(
        str(folder / "model.safetensors"), {name: mx.array(tensor(name, shape)) for name, shape in shapes.items()}
    )
    (folder / "config.json").write_text(json.dumps(family["base"] | case["change"]))
    return folder


def encode_and_decode(model, ids: mx.array) -> mx.array:
    slot = lone_slot(model.cache, Dense(), TARGET_LENGTH, LENGTH)
    slot.store_source(model.encode(ids))
    target = mx.array([[3 + index * 5 % (VOCAB - 6) for index in range(TARGET_LENGTH)]])
    return model.logits(model(target, Batch([slot])))[0, mx.array([3, TARGET_LENGTH - 1])]


def compute(kind: str, folder: Path) -> np.ndarray:
    ids = mx.array([[5 + index * 7 % (VOCAB - 6) for index in range(LENGTH)]])
    places = mx.array([LENGTH // 2, LENGTH - 1])
    checkpoint, device = open_checkpoint(folder), prepare_device()
    if kind == "encoder":
        return np.array(build_encoder(checkpoint, device)(ids, ids >= 0, mx.zeros_like(ids))[0, places])
    model = build_model(checkpoint, device)
    if kind == "encoder-decoder":
        return np.array(encode_and_decode(model, ids))
    if model.cache.num_states:
        hidden = model(ids, Batch([lone_slot(model.cache, Dense(), LENGTH)]))
    else:
        hidden = model(ids, UncachedBatch(model.cache, [LENGTH]))
    return np.array(model.logits(hidden)[0, places])


def fault_of(name: str, number: int, folder: Path) -> str | None:
    """What is wrong with a case; None where the engine agrees or refuses."""
    family = json.loads((KEYS / f"{name}.json").read_text())
    case = family["cases"][number]
    stored = family["cases"][0] if case.get("harmless") else case
    expected = np.frombuffer(base64.b64decode(stored["logits"]), np.float32)
    try:
        found = compute(family["kind"], checkpoint_of(family, case, folder))
    except CheckpointError:
        return None if number else "the plain model is refused"
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the fault
        return f"{type(error).__name__}: {error}"
    worst = np.abs(found.reshape(-1) - expected).max()
    return None if worst <= TOLERANCE * max(1.0, float(np.abs(expected).max())) else f"differs by {worst:.1e}"


@pytest.mark.parametrize(("name", "number"), cases(sampled=True))
def test_a_changed_key_is_honoured_or_refused(name, number, tmp_path):
    assert fault_of(name, number, tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in KEYS.glob("*.json")))
def test_every_changed_key_is_honoured_or_refused(name, tmp_path):
    family = json.loads((KEYS / f"{name}.json").read_text())
    faults = {
        json.dumps(case["change"]): fault
        for number, case in enumerate(family["cases"])
        if (fault := fault_of(name, number, tmp_path)) is not None
    }
    assert not faults


def test_every_family_has_cases():
    shared = {"gpt_neox", "llama", "mistral"}
    assert shared <= {path.stem for path in KEYS.glob("*.json")} & set(architecture_names())


def test_a_head_of_its_own_is_used_where_the_configuration_says_tied(tmp_path):
    family = json.loads((KEYS / "llama.json").read_text())
    plain = family["cases"][0]
    folder = checkpoint_of(family, plain, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    # Transformers 5.23 computes with both the logits of the untied model.
    expected = np.frombuffer(base64.b64decode(plain["logits"]), np.float32)
    assert np.abs(compute("decoder", folder).reshape(-1) - expected).max() < TOLERANCE
