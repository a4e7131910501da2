"""Models whose layers keep states: stored, restored, paused and batched, their answers are those of a lone request."""

from dataclasses import replace

import pytest

from engine import Engine
from engine.engine import EngineSettings
from engine.sampling.params import SamplingParams
from tests.engine.cache.test_prefixes import answers, conversations

FAMILIES = ["lfm2", "qwen3-5-text", "qwen3-next", "mamba2", "granitemoehybrid", "falcon-h1", "nemotron-h", "jamba"]
PLAIN = EngineSettings(prefix_bytes=0, max_rows=1)


@pytest.fixture(scope="module", params=FAMILIES)
def path(request, long_model):
    return long_model(request.param)


def test_conversations_are_answered_the_same_with_the_store_as_without(path):
    prompts = conversations(60)
    alone, _ = answers(Engine(path, PLAIN), prompts)
    engine = Engine(path, EngineSettings(prefix_bytes=3_000_000))
    found, cached = answers(engine, prompts)
    assert found == alone
    assert sum(cached.values()) > 200
    assert engine.stats.prefix_bytes <= 3_000_000


def test_a_second_turn_reads_only_what_is_new(path):
    engine = Engine(path)
    prompt = tuple(range(5, 90)) * 5
    (answer,) = engine.generate([prompt], SamplingParams(max_tokens=40, temperature=0, ignore_eos=True))
    _, cached = answers(engine, [(*prompt, *answer, 7, 8, 9)])
    assert cached["0"] >= len(prompt) + 38


def test_a_turn_that_drops_the_end_of_the_one_before_is_found_up_to_the_end_of_a_turn(path):
    engine = Engine(path)
    end = 2
    first = (*range(5, 90), end, *range(20, 80), end, 11, 12, 13)
    engine.generate([first], SamplingParams(max_tokens=9, temperature=0, ignore_eos=True))
    _, cached = answers(engine, [(*first[:-3], 40, 41, 42, 43)])
    assert cached["0"] == len(first) - 3


def test_choices_of_one_prompt_share_its_reading(path):
    _, cached = answers(Engine(path), [tuple(range(5, 85))] * 4)
    assert sorted(cached.values()) == [0, 79, 79, 79]


def test_snapshots_survive_a_restart(path, tmp_path):
    settings = EngineSettings(prefix_folder=tmp_path)
    prompt = tuple(range(5, 90)) * 3
    first = Engine(path, settings)
    (answer,) = first.generate([prompt], SamplingParams(max_tokens=20, temperature=0, ignore_eos=True))
    first.close()
    again = (*prompt, *answer, 8, 9)
    (expected,), _ = (list(found.values()) for found in answers(Engine(path, PLAIN), [again]))
    second = Engine(path, settings)
    found, cached = answers(second, [again])
    assert cached["0"] >= len(prompt) + 18
    assert found["0"] == expected


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_prompts_in_pieces_are_prompts_at_once(path, chunk):
    prompts = conversations(8)
    alone, _ = answers(Engine(path, PLAIN), prompts)
    found, _ = answers(Engine(path, replace(PLAIN, prefill_chunk_tokens=chunk, max_rows=4)), prompts)
    assert found == alone


def test_paused_sequences_go_on_as_if_they_had_never_been_paused(path):
    prompts = [tuple(range(5 + number, 80 + number)) for number in range(4)]
    alone, _ = answers(Engine(path, PLAIN), prompts, max_tokens=600)
    engine = Engine(path, EngineSettings(kv_bytes=700_000, max_rows=4))
    found, _ = answers(engine, prompts, max_tokens=600)
    assert found == alone
    if path.name != "mamba2":  # which keeps nothing that grows
        assert engine.stats.num_preemptions > 0
