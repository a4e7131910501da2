"""Scores of prompts are those of a direct forward pass, whatever is stored, read in parts or paused."""

import mlx.core as mx
import numpy as np
import pytest

from engine import Engine
from engine.attention.uncached_batch import UncachedBatch
from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.engine import EngineSettings
from engine.errors import ContextLengthExceeded, ParameterInvalid
from engine.model import build_model
from engine.requests import GenerationRequest, StepOutput
from engine.sampling.params import SamplingParams

PROMPT = tuple(np.random.default_rng(3).integers(3, 90, 200).tolist())


@pytest.fixture(scope="module")
def model_path(long_model):
    return long_model("llama")


@pytest.fixture(scope="module")
def expected(model_path) -> np.ndarray:
    """Log-probabilities of every token at every place, of one pass over the whole prompt."""
    model = build_model(open_checkpoint(model_path), prepare_device("native", None), None)
    batch = UncachedBatch(model.cache, [len(PROMPT)])
    logits = model.logits(model(mx.array([PROMPT]), batch)[0]).astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def engine(model_path) -> Engine:
    return Engine(model_path, EngineSettings(prefix_bytes=1 << 28, prefill_chunk_tokens=48))


def scored(name: str = "a", *, top: int = 1, prompt=PROMPT, **params) -> GenerationRequest:
    settings = {"max_tokens": 1, "temperature": 0.0, "logprobs": top} | params
    return GenerationRequest(name, prompt, SamplingParams(**settings), prompt_logprobs=top)


def run(engine: Engine) -> dict[str, list[StepOutput]]:
    outputs: dict[str, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


def scores_of(outputs: list[StepOutput]):
    return [token for output in outputs for token in output.prompt_tokens]


def check(tokens, expected: np.ndarray, top: int, length: int = len(PROMPT)) -> None:
    assert [token.token_id for token in tokens] == list(PROMPT[1:length])
    for place, token in enumerate(tokens):
        assert token.logprob == pytest.approx(expected[place, token.token_id], abs=1e-4)
        assert len(token.top_logprobs) == top
        likeliest = np.sort(expected[place])[::-1][:top]
        np.testing.assert_allclose([value for _, value in token.top_logprobs], likeliest, atol=1e-4)
        for token_id, value in token.top_logprobs:
            assert value == pytest.approx(expected[place, token_id], abs=1e-4)


@pytest.mark.parametrize("top", [0, 1, 5])
def test_scores_are_those_of_a_direct_pass_also_when_the_prompt_is_stored(engine, expected, top):
    for _ in range(2):
        engine.submit(scored(top=top))
        outputs = run(engine)["a"]
        check(scores_of(outputs), expected, top)
        (last,) = [output for output in outputs if output.token]
        assert last.token.token_id == int(np.argmax(expected[-1]))
        assert last.token.logprob == pytest.approx(expected[-1].max(), abs=1e-4)


def test_a_greedy_token_s_score_is_the_very_number_of_the_likeliest(engine):
    engine.submit(scored(max_tokens=5, ignore_eos=True))
    outputs = run(engine)["a"]
    for token in [*scores_of(outputs), *(output.token for output in outputs if output.token)]:
        if token.token_id == token.top_logprobs[0][0]:
            assert token.logprob == token.top_logprobs[0][1]


def test_nothing_is_generated_where_nothing_is_wanted(engine, expected):
    engine.submit(scored(max_tokens=0))
    outputs = run(engine)["a"]
    check(scores_of(outputs), expected, 1)
    assert [output.token for output in outputs if output.token] == []
    assert [output.finish_reason for output in outputs][-1] == "length"
    engine.submit(scored(max_tokens=0, prompt=PROMPT[:1]))
    assert [output.prompt_tokens for output in run(engine)["a"]] == [()]
    assert engine.num_running == 0


def test_scores_do_not_depend_on_who_else_runs(engine, expected):
    for name in ("a", "b", "c"):
        engine.submit(scored(name, top=len(name)))
    engine.submit(GenerationRequest("plain", PROMPT[:50], SamplingParams(max_tokens=30, temperature=0.0)))
    outputs = run(engine)
    for name in ("a", "b", "c"):
        check(scores_of(outputs[name]), expected, 1)
    assert scores_of(outputs["plain"]) == []


def test_a_paused_sequence_reports_every_score_once(model_path, expected):
    tight = Engine(model_path, EngineSettings(prefill_chunk_tokens=32, kv_bytes=1_100_000, max_rows=8))
    for number in range(4):
        tight.submit(scored(str(number), prompt=PROMPT, max_tokens=400, ignore_eos=True))
    outputs = run(tight)
    assert tight.stats.num_preemptions > 0
    for number in range(4):
        check(scores_of(outputs[str(number)]), expected, 1)


def test_a_prompt_may_fill_the_context_when_nothing_is_generated(model_path):
    engine = Engine(model_path, EngineSettings(context_length=200))
    engine.submit(scored(max_tokens=0))
    assert len(scores_of(run(engine)["a"])) == len(PROMPT) - 1
    with pytest.raises(ContextLengthExceeded):
        engine.submit(scored(max_tokens=1))
    with pytest.raises(ParameterInvalid):
        engine.submit(GenerationRequest("a", PROMPT[:9], SamplingParams(max_tokens=0)))


def test_prompts_are_not_scored_with_beams(engine):
    with pytest.raises(ParameterInvalid, match="beams"):
        engine.submit(GenerationRequest("a", PROMPT, SamplingParams(max_tokens=1, num_beams=2), prompt_logprobs=1))
