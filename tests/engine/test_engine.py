"""The engine through submit, cancel and step, on a tiny random model."""

import numpy as np
import pytest

from engine import Engine
from engine.engine import EngineSettings
from engine.errors import ContextLengthExceeded, ParameterInvalid
from engine.requests import GenerationRequest, StepOutput
from engine.sampling.params import SamplingParams

INF = float("inf")
LENGTHS = (3, 40, 11)
PROMPTS = [tuple(np.random.default_rng(length).integers(3, 90, length).tolist()) for length in LENGTHS]


@pytest.fixture(scope="module")
def engine(tiny_llama):
    return Engine(tiny_llama)


def request(name: str = "a", prompt=PROMPTS[0], **params) -> GenerationRequest:
    settings = {"max_tokens": 6, "temperature": 0.0, "ignore_eos": True} | params
    return GenerationRequest(name, prompt, SamplingParams(**settings))


def run(engine: Engine) -> dict[str, list[StepOutput]]:
    outputs: dict[str, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


def ids(outputs: list[StepOutput]) -> list[int]:
    return [output.token.token_id for output in outputs if output.token]


def alone(engine: Engine, prompt, **params) -> list[int]:
    engine.submit(request("alone", prompt, **params))
    return ids(run(engine)["alone"])


def test_exactly_max_tokens_are_delivered_and_the_last_says_length(engine):
    engine.submit(request(max_tokens=5))
    outputs = run(engine)["a"]
    assert [output.finish_reason for output in outputs] == [None] * 4 + ["length"]


def test_an_end_token_finishes_with_stop_and_is_the_last_token(engine):
    free = alone(engine, PROMPTS[1], max_tokens=12)
    end = free[4]
    engine.submit(request(prompt=PROMPTS[1], max_tokens=12, stop_token_ids=(end,)))
    outputs = run(engine)["a"]
    assert ids(outputs) == free[: free.index(end) + 1]
    assert outputs[-1].finish_reason == "stop"


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 5, "top_p": 0.9}])
def test_requests_that_run_together_give_what_they_give_alone(engine, sampling):
    expected = [alone(engine, prompt, max_tokens=20, **sampling) for prompt in PROMPTS]
    for number, prompt in enumerate(PROMPTS):
        engine.submit(request(str(number), prompt, max_tokens=20, **sampling))
    together = run(engine)
    assert [ids(together[str(number)]) for number in range(len(PROMPTS))] == expected


def test_a_prompt_read_in_small_chunks_gives_the_same_tokens(tiny_llama, engine):
    small = Engine(tiny_llama, EngineSettings(prefill_chunk_tokens=7))
    assert alone(small, PROMPTS[1], max_tokens=10) == alone(engine, PROMPTS[1], max_tokens=10)


def test_cancelled_sequence_leaves_the_batch_at_once(engine):
    engine.submit(request("stays", max_tokens=10))
    engine.submit(request("leaves", max_tokens=10))
    for _ in range(4):
        engine.step()
    engine.cancel("leaves")
    assert engine.num_running == 1
    outputs = run(engine)
    assert "leaves" not in outputs
    assert outputs["stays"][-1].finish_reason == "length"


def test_cancel_of_an_unknown_request_is_ignored(engine):
    engine.cancel("nobody")
    assert not engine.has_work


def test_more_requests_than_rows_all_finish(tiny_llama):
    engine = Engine(tiny_llama, EngineSettings(max_rows=2))
    for number in range(7):
        engine.submit(request(str(number), PROMPTS[number % 3], max_tokens=3 + number))
    outputs = run(engine)
    assert [len(ids(outputs[str(number)])) for number in range(7)] == [3, 4, 5, 6, 7, 8, 9]
    assert (engine.num_running, engine.num_waiting) == (0, 0)


def test_an_exception_in_a_step_fails_its_rows_and_the_next_request_is_served(tiny_llama):
    faults = [False, False, True]

    def fail_on_the_third_step(step) -> None:
        if faults and faults.pop(0):
            raise MemoryError("injected")

    engine = Engine(tiny_llama, EngineSettings(before_launch=fail_on_the_third_step))
    engine.submit(request("hit", max_tokens=9))
    outputs = run(engine)["hit"]
    assert outputs[-1].error
    assert "injected" not in outputs[-1].error
    assert not engine.num_running
    assert len(alone(engine, PROMPTS[0])) == 6


def test_a_token_id_outside_the_vocabulary_is_refused(engine):
    with pytest.raises(ParameterInvalid, match="outside the vocabulary"):
        engine.submit(request(prompt=(10_000,)))


def test_logprobs_come_with_the_number_of_alternatives_each_asked_for(engine):
    engine.submit(request("two", logprobs=2))
    engine.submit(request("none"))
    engine.submit(request("zero", logprobs=0))
    outputs = run(engine)
    assert {len(output.token.top_logprobs) for output in outputs["two"]} == {2}
    assert {output.token.logprob for output in outputs["none"]} == {None}
    assert all(output.token.logprob < 0 and not output.token.top_logprobs for output in outputs["zero"])
    assert all(output.token.logprob == output.token.top_logprobs[0][1] for output in outputs["two"])


def test_a_prompt_past_the_context_is_refused_with_both_numbers(tiny_llama):
    engine = Engine(tiny_llama, EngineSettings(context_length=32))
    with pytest.raises(ContextLengthExceeded, match=r"32 tokens.*40"):
        engine.submit(request(prompt=PROMPTS[1]))
    with pytest.raises(ParameterInvalid, match="room for 1 to 29"):
        engine.submit(request(max_tokens=30))


@pytest.mark.parametrize(
    ("wrong", "param"),
    [({"prompt": ()}, "prompt"), ({"logit_bias": ((10_000, 1.0),)}, "logit_bias"), ({"max_tokens": 0}, "max_tokens")],
)
def test_what_cannot_be_run_is_refused_by_name(engine, wrong, param):
    with pytest.raises(ParameterInvalid) as refused:
        engine.submit(request(**wrong))
    assert refused.value.param == param


def test_generate_continues_lists_of_ids(engine):
    sampling = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    assert engine.generate(PROMPTS, sampling) == [alone(engine, prompt, max_tokens=4) for prompt in PROMPTS]


def test_the_first_output_says_how_long_a_request_waited(tiny_llama):
    engine = Engine(tiny_llama, EngineSettings(max_rows=1))
    engine.submit(request("first", max_tokens=30))
    engine.submit(request("second"))
    outputs = run(engine)
    assert 0 < outputs["first"][0].queued_seconds < outputs["second"][0].queued_seconds
    assert not any(each.queued_seconds for each in outputs["second"][1:])


def test_named_tokens_are_scored_beside_rows_that_ask_for_others(engine):
    vocab_size = engine.info.vocab_size
    engine.submit(request("all", prompt=PROMPTS[1], max_tokens=1, logprobs=vocab_size))
    everything = dict(run(engine)["all"][0].token.top_logprobs)
    engine.submit(request("few", prompt=PROMPTS[1], max_tokens=1, logprobs=0, logprob_ids=(9, 3, 70)))
    engine.submit(request("one", prompt=PROMPTS[1], max_tokens=1, logprobs=0, logprob_ids=(50,)))
    engine.submit(request("top", prompt=PROMPTS[1], max_tokens=1, logprobs=2))
    tops = {name: outputs[0].token.top_logprobs for name, outputs in run(engine).items()}
    assert [token_id for token_id, _ in tops["few"]] == [9, 3, 70]
    for token_id, logprob in (*tops["few"], *tops["one"], *tops["top"]):
        assert logprob == pytest.approx(everything[token_id], abs=1e-5)
    assert [len(tops[name]) for name in ("few", "one", "top")] == [3, 1, 2]
    with pytest.raises(ParameterInvalid):
        engine.submit(request(logprobs=0, logprob_ids=(vocab_size,)))


@pytest.mark.parametrize(
    "rules",
    [{"min_tokens": 2, "stop_token_ids": (7,)}, {"bad_sequences": ((7,), (8, 9))}, {"logit_bias": ((7, -INF),)}],
)
def test_rules_that_leave_nothing_to_sample_are_refused(engine, rules):
    with pytest.raises(ParameterInvalid) as refused:
        engine.submit(request(allowed_token_ids=(7,), **rules))
    assert refused.value.param == "allowed_token_ids"
    engine.submit(request(allowed_token_ids=(7, 8), max_tokens=2, **rules))
    assert set(ids(run(engine)["a"])) == {8}
