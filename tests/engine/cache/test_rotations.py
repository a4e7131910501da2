"""Rotations that depend on the length: the answers of transformers, whatever is cached and whatever may still come."""

import json
import shutil
from pathlib import Path

import pytest

from engine import Engine
from engine.engine import EngineSettings
from engine.requests import GenerationRequest
from engine.sampling.params import SamplingParams

FIXTURES = Path(__file__).parent.parent / "architectures" / "fixtures"
NUM_NEW = 40
# What transformers 5.23 generates greedily from a prompt of so many tokens; the rotation changes after 32.
GREEDY = json.loads((FIXTURES.parent / "rotations.json").read_text())
FAMILIES = sorted(GREEDY)


def prompt(num_tokens: int) -> tuple[int, ...]:
    return tuple(5 + index * 7 % 90 for index in range(num_tokens))


def sampling(**given) -> SamplingParams:
    return SamplingParams(**{"max_tokens": NUM_NEW, "temperature": 0, "ignore_eos": True} | given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A fixture's copy whose context holds every test's text."""

    def make(name: str) -> Path:
        path = tmp_path_factory.mktemp("models") / name
        shutil.copytree(FIXTURES / name, path)
        if name == "llama-dynamic":
            config = (path / "config.json").read_text()
            (path / "config.json").write_text(config.replace('"factor": 2.0', '"factor": 4.0'))
        return path

    return make


@pytest.fixture(params=FAMILIES)
def path(request, folder):
    return folder(request.param)


def expected(path: Path) -> dict[int, list[int]]:
    return {int(length): ids for length, ids in GREEDY[path.name].items()}


def test_texts_that_outgrow_the_first_rotation_are_those_of_transformers(path):
    for length, ids in expected(path).items():
        assert Engine(path).generate([prompt(length)], sampling()) == [ids]


def test_what_is_cached_and_who_is_beside_changes_no_text(path):
    engine, by_length = Engine(path), expected(path)
    for _ in range(2):
        assert engine.generate([prompt(length) for length in by_length], sampling()) == list(by_length.values())
    if path.name == "phi3-longrope":
        assert engine.stats.cached_tokens > sum(by_length)


def test_a_chat_that_grows_past_the_threshold_finds_no_keys_of_the_other_rotation(path):
    engine = Engine(path)
    text = prompt(20)
    for _ in range(5):
        (answer,) = engine.generate([text], sampling(max_tokens=9))
        assert Engine(path, EngineSettings(prefix_bytes=0)).generate([text], sampling(max_tokens=9)) == [answer]
        text = (*text, *answer, 7, 8)


def test_max_tokens_alone_changes_no_text(path):
    (short,) = Engine(path).generate([prompt(20)], sampling(max_tokens=5))
    assert short == expected(path)[20][:5]


def test_a_paused_sequence_goes_on_with_its_own_rotations(path):
    engine, by_length = Engine(path), expected(path)
    for length in by_length:
        engine.submit(GenerationRequest(str(length), prompt(length), sampling()))
    found: dict[str, list[int]] = {}
    steps = 0
    while engine.has_work:
        steps += 1
        if steps in (9, 40):
            engine._scheduler.preempt_all()  # as a failed step does
        for output in engine.step():
            assert output.error is None
            found.setdefault(output.request_id, []).append(output.token.token_id)
    assert found == {str(length): ids for length, ids in by_length.items()}


def test_keys_on_disk_keep_their_rotation_apart(path, tmp_path):
    settings, by_length = EngineSettings(prefix_folder=tmp_path), expected(path)
    for _ in range(2):
        engine = Engine(path, settings)
        assert engine.generate([prompt(length) for length in by_length], sampling()) == list(by_length.values())
        engine.close()


def test_beams_that_outgrow_the_first_rotation_are_computed_again(folder):
    path = folder("phi3-longrope")
    (beams,) = Engine(path).generate([prompt(20)], sampling(num_beams=3))
    assert beams == BEAMS


# As above, with num_beams=3.
BEAMS = [
    *(66, 24, 14, 54, 49, 85, 3, 30, 88, 14, 54, 69, 80, 33, 19, 82, 36, 14, 43, 17),
    *(13, 36, 1, 74, 82, 48, 42, 24, 19, 30, 64, 61, 72, 54, 2, 90, 64, 82, 24, 12),
]
