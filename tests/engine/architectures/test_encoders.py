"""Every encoder and classifier family against the vectors and scores that transformers computed."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.errors import CheckpointUnsupported
from engine.model import architecture_names, build_encoder, build_model

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4


def fixtures() -> list[Path]:
    paths = []
    for row in sorted(FIXTURES.glob("*/row.json")):
        model_type = json.loads((row.parent / "config.json").read_text())["model_type"]
        if json.loads(row.read_text())["kind"] in ("encoder", "classifier"):
            assert model_type in architecture_names()
            paths.append(row.parent)
    return paths


@pytest.fixture(params=fixtures(), ids=lambda path: path.name, scope="module")
def case(request):
    path = request.param
    reference = {name: np.array(array) for name, array in mx.load(str(path / "fixture.safetensors")).items()}
    return build_encoder(open_checkpoint(path), prepare_device()), reference


def run(model, reference, rows=slice(None), length=None) -> tuple[mx.array, mx.array]:
    ids = mx.array(reference["input_ids"][rows, :length])
    mask = mx.array(reference["attention_mask"][rows, :length] > 0)
    types = reference.get("token_type_ids")
    types = mx.zeros_like(ids) if types is None else mx.array(types[rows, :length])
    return model(ids, mask, types), mask


def test_there_are_fixtures():
    assert len(fixtures()) > 10


def test_a_padded_batch_agrees(case):
    model, reference = case
    hidden, mask = run(model, reference)
    if "logits" in reference:
        scores = np.array(model.scores(hidden, mask))
        assert scores.shape == (len(reference["input_ids"]), model.num_labels)
        assert np.abs(scores - reference["logits"]).max() <= TOLERANCE
    else:
        difference = np.abs(np.array(hidden) - reference["last_hidden_state"]) * reference["attention_mask"][..., None]
        assert difference.max() <= TOLERANCE
        assert model.num_labels == 0


def test_each_text_alone_agrees(case):
    model, reference = case
    for row, length in enumerate(reference["attention_mask"].sum(axis=1).tolist()):
        hidden, mask = run(model, reference, slice(row, row + 1), length)
        if "logits" in reference:
            difference = np.array(model.scores(hidden, mask)) - reference["logits"][row]
        else:
            difference = np.array(hidden[0]) - reference["last_hidden_state"][row, :length]
        assert np.abs(difference).max() <= TOLERANCE


def test_an_encoder_is_refused_where_text_is_to_be_written():
    with pytest.raises(CheckpointUnsupported, match="writes text"):
        build_model(open_checkpoint(fixtures()[0]), prepare_device())
