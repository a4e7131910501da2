"""Keys and values under a budget: quantised, preempted, on disk. Whatever happens, the answers are the same."""

import random
from pathlib import Path

import numpy as np
import pytest

from engine import Engine
from engine.engine import EngineSettings
from engine.errors import ContextLengthExceeded, MemoryExceeded
from engine.requests import GenerationRequest
from engine.sampling.params import SamplingParams


def request(name: str, prompt, **given) -> GenerationRequest:
    sampling = {"max_tokens": 6, "temperature": 0.0, "ignore_eos": True} | given
    return GenerationRequest(name, tuple(prompt), SamplingParams(**sampling))


def finish(engine: Engine) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    while engine.has_work:
        for output in engine.step():
            assert output.error is None
            found.setdefault(output.request_id, []).append(output.token.token_id)
    return found


def mixed(count: int, seed: int, longest: int = 300) -> list[GenerationRequest]:
    rng = random.Random(seed)
    return [
        request(
            str(number),
            [rng.randrange(5, 60) for _ in range(rng.randrange(1, longest))],
            max_tokens=rng.randrange(1, longest),
            temperature=rng.choice([0.0, 1.0]),
            seed=number,
            repetition_penalty=rng.choice([1.0, 1.3]),
            logprobs=rng.choice([None, 2]),
        )
        for number in range(count)
    ]


def test_rows_that_are_preempted_give_what_they_give_with_room(long_model):
    path, requests = long_model("llama"), mixed(9, seed=1, longest=600)
    engine = Engine(path, EngineSettings(prefix_bytes=0))
    for each in requests:
        engine.submit(each)
    roomy = finish(engine)
    assert engine.stats.num_preemptions == 0
    token_bytes = engine.stats.kv_limit_bytes and _token_bytes(engine)
    engine = Engine(path, EngineSettings(prefix_bytes=0, kv_bytes=2560 * token_bytes))
    for each in requests:
        engine.submit(each)
    assert finish(engine) == roomy
    assert engine.stats.num_preemptions > 0
    assert engine.stats.kv_bytes == 0


def _token_bytes(engine: Engine) -> int:
    engine.submit(request("one", [7, 8, 9]))
    engine.step()
    held = engine.stats.kv_bytes
    finish(engine)
    return held // 256


def test_the_context_is_what_memory_allows_and_more_beams_than_fit_are_refused(long_model):
    path = long_model("llama")
    token_bytes = _token_bytes(Engine(path))
    engine = Engine(path, EngineSettings(kv_bytes=1200 * token_bytes))
    assert engine.info.context_length == 1024
    with pytest.raises(MemoryExceeded, match="MB"):
        engine.submit(request("beams", [5, 6], max_tokens=300, num_beams=4))


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss"])
def test_many_requests_and_cancels_leave_nothing_behind(long_model, name):
    rng, engine = random.Random(5), Engine(long_model(name), EngineSettings(max_rows=6, prefix_bytes=300_000))
    left, live = mixed(150, seed=2, longest=40), set()
    while left or engine.has_work:
        while left and len(live) < 10:
            each = left.pop()
            engine.submit(each)
            live.add(each.request_id)
        if live and rng.random() < 0.05:
            gone = rng.choice(sorted(live))
            engine.cancel(gone)
            live.discard(gone)
        for output in engine.step():
            assert output.request_id in live
            if output.finish_reason:
                live.discard(output.request_id)
        assert engine.stats.prefix_bytes <= 300_000
    stats = engine.stats
    assert (stats.num_running, stats.num_waiting, stats.kv_bytes) == (0, 0, 0)
    assert engine._runner.num_running == 0  # nothing else tells
    assert engine._runner.num_slots == 0


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss"])
def test_quantised_keys_and_values_batch_reuse_and_preempt_like_plain_ones(packable_model, name, bits):
    path, requests = packable_model(name), mixed(8, seed=3, longest=120)
    settings = EngineSettings(kv_bits=bits, prefix_bytes=0)
    alone = {each.request_id: _alone(Engine(path, settings), each) for each in requests}
    engine = Engine(path, EngineSettings(kv_bits=bits))
    for _ in range(2):
        for each in requests:
            engine.submit(each)
        assert finish(engine) == alone
    assert engine.stats.cached_tokens > 0


def _alone(engine: Engine, each: GenerationRequest) -> list[int]:
    engine.submit(each)
    return finish(engine)[each.request_id]


def test_quantised_keys_and_values_take_less_and_stay_near(packable_model):
    path = packable_model("llama")
    plain, packed = Engine(path), Engine(path, EngineSettings(kv_bits=8))
    assert _token_bytes(packed) < 0.4 * _token_bytes(plain)
    prompt = list(range(5, 55))
    logprobs = []
    for engine in (plain, packed):
        engine.submit(request("near", prompt, logprobs=20, max_tokens=1))
        while engine.has_work:
            logprobs += [dict(output.token.top_logprobs) for output in engine.step()]
    shared = set(logprobs[0]) & set(logprobs[1])
    assert len(shared) >= 15
    assert max(abs(logprobs[0][each] - logprobs[1][each]) for each in shared) < 0.1


def conversation(seed: int) -> list[int]:
    return [random.Random(seed).randrange(5, 60) for _ in range(330)]


@pytest.mark.parametrize("bits", [None, 8])
def test_a_prefix_on_disk_survives_a_restart(packable_model, tmp_path, bits):
    path = packable_model("gemma3")
    settings = EngineSettings(prefix_folder=tmp_path, kv_bits=bits)
    first = Engine(path, settings)
    before = _alone(first, request("a", conversation(1)))
    first.close()
    second = Engine(path, settings)
    assert _alone(second, request("a", conversation(1))) == before
    assert second.stats.cached_tokens == 329
    other = Engine(path, EngineSettings(prefix_folder=tmp_path, kv_bits=4))
    _alone(other, request("a", conversation(1)))
    assert other.stats.cached_tokens == 0


def test_a_damaged_file_is_a_counted_miss(packable_model, tmp_path):
    path = packable_model("llama")
    settings = EngineSettings(prefix_folder=tmp_path)
    first = Engine(path, settings)
    before = _alone(first, request("a", conversation(1)))
    first.close()
    files = sorted(tmp_path.glob("*/*.kv"))
    assert len(files) == 7  # five blocks of the prompt, its end, and the end of the answer
    for number, file in enumerate(files):
        _damage(file, number)
    second = Engine(path, settings)
    assert _alone(second, request("a", conversation(1))) == before
    assert second.stats.num_damaged > 0
    second.close()
    third = Engine(path, settings)
    assert _alone(third, request("a", conversation(1))) == before
    assert third.stats.num_damaged == 0


def _damage(file: Path, number: int) -> None:
    data = bytearray(file.read_bytes())
    match number % 3:
        case 0:
            data[-100] ^= 1
        case 1:
            data = data[: len(data) // 2]
        case 2:
            data = bytearray(b"something else")
    file.write_bytes(data)


def test_the_disk_budget_holds(packable_model, tmp_path):
    settings = EngineSettings(prefix_folder=tmp_path, prefix_disk_bytes=400_000)
    engine = Engine(packable_model("llama"), settings)
    for seed in range(6):
        _alone(engine, request("a", conversation(seed)))
    engine.close()
    assert 0 < sum(file.stat().st_size for file in tmp_path.glob("*/*.kv")) <= 400_000


def test_a_step_that_fails_costs_its_rows_alone(long_model):
    faults = {"on": False}

    def fail(step) -> None:
        if faults["on"] and any(each.request.request_id == "hit" for each in step.sequences):
            faults["on"] = False
            raise MemoryError("injected")

    engine = Engine(long_model("llama"), EngineSettings(before_launch=fail, max_rows=1, prefix_bytes=0))
    expected = _alone(engine, request("spared", conversation(2), max_tokens=40))
    engine.submit(request("hit", conversation(3)))
    engine.submit(request("spared", conversation(2), max_tokens=40))
    faults["on"] = True
    found: dict[str, list[int]] = {"hit": [], "spared": []}
    errors = []
    while engine.has_work:
        for output in engine.step():
            errors += [output.request_id] if output.error else []
            found[output.request_id] += [output.token.token_id] if output.token else []
    assert errors == ["hit"]
    assert found["spared"] == expected


def test_a_quantised_cache_needs_whole_groups(long_model):
    with pytest.raises(Exception, match="multiples of 32"):
        Engine(long_model("llama"), EngineSettings(kv_bits=8))


def test_numbers_of_a_block_are_exact(packable_model, tmp_path):
    """What comes back from disk equals what was written, to the last bit."""
    settings = EngineSettings(prefix_folder=tmp_path)
    engine = Engine(packable_model("llama"), settings)
    _alone(engine, request("a", conversation(1)))
    kept = engine._prefixes.find(conversation(1), 300)  # the numbers themselves are inside
    engine.close()
    again = Engine(packable_model("llama"), settings)._prefixes.find(conversation(1), 300)
    for ours, theirs in zip(kept.contents, again.contents, strict=True):
        for one, other in zip(ours.stacks, theirs.stacks, strict=True):
            assert np.array_equal(np.array(one), np.array(other))


def test_an_endless_answer_goes_on_past_the_context_with_the_first_and_the_newest_tokens(long_model):
    path = long_model("llama")
    engine = Engine(path, EngineSettings(context_length=64, endless=True))
    prompt = conversation(4)[:100]
    answer = _alone(engine, request("endless", prompt, max_tokens=150))
    assert len(answer) == 150
    assert engine.stats.kv_bytes == 0
    tokens = [*prompt, *answer]
    # The last shortening left 4 + 28 tokens; what follows is what an ordinary engine says to these.
    for kept in range(100, len(tokens) - 3):
        seen = [*tokens[:4], *tokens[kept - 28 : kept]]
        if _alone(Engine(path), request("ordinary", seen, max_tokens=3)) != tokens[kept : kept + 3]:
            continue
        return
    pytest.fail("no stretch of the answer follows from the first and the newest tokens")


def test_without_the_policy_a_prompt_past_the_context_is_refused(long_model):
    with pytest.raises(ContextLengthExceeded):
        Engine(long_model("llama"), EngineSettings(context_length=64)).submit(request("long", conversation(4)))
