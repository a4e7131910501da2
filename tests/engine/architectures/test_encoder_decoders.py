"""Every encoder-decoder family against logits, greedy answers and beams that transformers computed."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from engine import Engine
from engine.attention.batch import Batch
from engine.cache.layout import Dense
from engine.cache.slots import lone_slot
from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.model import build_model
from engine.requests import GenerationRequest
from engine.sampling.params import SamplingParams

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4
MAX_TOKENS = 20


def encoder_decoder_fixtures() -> list[Path]:
    rows = sorted(FIXTURES.glob("*/row.json"))
    return [path.parent for path in rows if json.loads(path.read_text())["kind"] == "encoder-decoder"]


@pytest.fixture(params=encoder_decoder_fixtures(), ids=lambda path: path.name, scope="module")
def path(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def reference(path) -> dict[str, np.ndarray]:
    arrays = {name: np.array(array) for name, array in mx.load(str(path / "fixture.safetensors")).items()}
    return {name: array[0] if array.ndim > 1 and len(array) == 1 else array for name, array in arrays.items()}


@pytest.fixture(scope="module")
def engine(path) -> Engine:
    return Engine(path)


def decode(path: Path, reference: dict[str, np.ndarray], sizes: list[int]) -> np.ndarray:
    model = build_model(open_checkpoint(path), prepare_device())
    slot, start, logits = lone_slot(model.cache, Dense(), 64, len(reference["input_ids"])), 0, []
    slot.store_source(model.encode(mx.array(reference["input_ids"])[None]))
    for size in sizes:
        batch = Batch([slot])
        hidden = model(mx.array(reference["decoder_input_ids"][start : start + size])[None], batch)
        batch.advance(size)
        logits.append(np.array(model.logits(hidden)[0]))
        start += size
    return np.concatenate(logits)


def settings(path: Path, **given) -> SamplingParams:
    """Greedy as the fixture was made: by the checkpoint's own forced tokens, unless they are given."""
    own = json.loads((path / "generation_config.json").read_text())
    forced = {name: own.get(name) for name in ("forced_bos_token_id", "forced_eos_token_id")}
    banned = tuple((ids[0], -float("inf")) for ids in own.get("bad_words_ids") or [] if len(ids) == 1)
    return SamplingParams(**{"max_tokens": MAX_TOKENS, "temperature": 0, "logit_bias": banned, **forced, **given})


def test_there_are_fixtures():
    assert len(encoder_decoder_fixtures()) >= 5


def test_logits_agree_whole_and_token_by_token(path, reference):
    expected = reference["logits"]
    for sizes in ([len(expected)], [1] * len(expected), [3, len(expected) - 3]):
        assert np.abs(decode(path, reference, sizes) - expected).max() <= TOLERANCE


def test_greedy_answers_are_the_reference_s(path, reference, engine):
    answer = engine.generate([reference["input_ids"].tolist()], settings(path))[0]
    assert answer == reference["greedy_ids"].tolist()


def test_beams_are_the_reference_s(path, reference, engine):
    searches = json.loads((path / "row.json").read_text())["beams"]
    assert searches
    for number, given in enumerate(searches):
        answer = engine.generate([reference["input_ids"].tolist()], settings(path, **given))[0]
        assert answer == reference[f"beams_{number}"].tolist(), given


def test_an_answer_beside_others_is_the_answer_alone(path, reference, engine):
    ids = reference["input_ids"].tolist()
    prompts = [ids, ids[:5], ids[3:]]
    alone = [engine.generate([prompt], settings(path))[0] for prompt in prompts]
    search = settings(path, num_beams=3)
    expected = engine.generate([ids], search)[0]
    for number, prompt in enumerate(prompts):
        engine.submit(GenerationRequest(str(number), tuple(prompt), settings(path)))
    engine.submit(GenerationRequest("beams", tuple(ids), search))
    together: dict[str, list[int]] = {}
    while engine.has_work:
        for output in engine.step():
            together.setdefault(output.request_id, []).append(output.token.token_id)
    assert [together[str(number)] for number in range(3)] == alone
    assert together["beams"] == expected
