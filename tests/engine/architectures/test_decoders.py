"""Every decoder family against logits that transformers computed for the same random weights."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from engine.attention.batch import Batch
from engine.cache.kv_budget import KVBudget, TokenBytes
from engine.cache.layout import Dense
from engine.cache.slots import Slot, SlotPool, lone_slot
from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.model import CausalModel, architecture_names, build_model

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4


def decoder_fixtures() -> list[Path]:
    rows = (path.parent for path in sorted(FIXTURES.glob("*/row.json")))
    return [path for path in rows if json.loads((path / "row.json").read_text())["kind"] == "decoder" and served(path)]


def served(path: Path) -> bool:
    return json.loads((path / "config.json").read_text())["model_type"] in architecture_names()


@pytest.fixture(params=decoder_fixtures(), ids=lambda path: path.name, scope="module")
def case(request):
    path = request.param
    # The kernels round what they multiply by packed weights to 15 bits.
    is_packed = "quantization_config" in json.loads((path / "config.json").read_text())
    model = build_model(open_checkpoint(path), prepare_device("off" if is_packed else "native"))
    reference = mx.load(str(path / "fixture.safetensors"))
    return model, open_checkpoint(path), np.array(reference["input_ids"]).reshape(-1), np.array(reference["logits"])


def new_slot(case) -> Slot:
    model, _, ids, _ = case
    return lone_slot(model.cache, Dense(), len(ids))


def forward(model: CausalModel, ids: np.ndarray, slot: Slot) -> np.ndarray:
    batch = Batch([slot])
    hidden = model(mx.array(ids)[None], batch)
    batch.advance(len(ids))
    return np.array(model.logits(hidden)[0])


def chunked(case, sizes: list[int]) -> np.ndarray:
    model, _, ids, _ = case
    slot, logits, start = new_slot(case), [], 0
    for size in sizes:
        logits.append(forward(model, ids[start : start + size], slot))
        start += size
    assert start == len(ids)
    return np.concatenate(logits)


def worst(case, logits: np.ndarray) -> float:
    return float(np.abs(logits - case[3].reshape(logits.shape)).max())


def test_there_are_fixtures():
    assert decoder_fixtures(), "tests/engine/architectures/fixtures holds no decoder that is served"


def test_whole_prefill_agrees(case):
    assert worst(case, chunked(case, [len(case[2])])) <= TOLERANCE


@pytest.mark.parametrize("first", [1, 7])
def test_chunked_prefill_agrees(case, first):
    rest = len(case[2]) - first
    assert worst(case, chunked(case, [first, *[16] * (rest // 16), rest % 16])) <= TOLERANCE


def test_token_by_token_agrees(case):
    assert worst(case, chunked(case, [1] * len(case[2]))) <= TOLERANCE


def test_rows_of_different_lengths_decode_together_as_they_do_alone(case):
    model, _, ids, _ = case
    pool = SlotPool(model.cache, Dense(), budget := KVBudget(TokenBytes(1)))
    # The fourth row leaves a hole in the slab, and the last is in a slab of its own.
    lengths, sizes = [5, len(ids) - 4, 3, 17, 9], [256, 256, 256, 256, 512]
    slots = [pool.take(budget.take(size), len(ids)) for size in sizes]
    for slot, length in zip(slots, lengths, strict=True):
        forward(model, ids[:length], slot)
    pool.release(slots.pop(2))
    lengths.pop(2)
    for step in range(3):
        batch = Batch(slots)
        hidden = model(mx.array([[int(ids[length + step])] for length in lengths]), batch)
        batch.advance(1)
        logits = np.array(model.logits(hidden)[:, 0])
        expected = case[3].reshape(len(ids), -1)[[length + step for length in lengths]]
        assert np.abs(logits - expected).max() <= TOLERANCE
