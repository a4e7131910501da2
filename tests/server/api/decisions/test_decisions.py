"""Decisions with the official client: predicates, choices and scores as probabilities of labels."""

import json
from pathlib import Path

import numpy as np
import openai
import pytest

from engine import Engine
from engine.requests import GenerationRequest
from engine.sampling.params import SamplingParams

REAL = Path(__file__).parents[2] / "real_serve.py"
PREDICATE = {"type": "predicate", "name": "late", "instructions": "It is late."}
CHOICE = {
    "type": "choice",
    "instructions": [{"type": "input_text", "text": "Which "}, {"type": "input_text", "text": "is it?"}],
    "choices": [{"value": "true", "description": "a word"}, {"value": True}, {"value": "other"}],
}
SCORE = {
    "type": "score",
    "name": "mood",
    "instructions": "How good is it?",
    "levels": [{"label": "bad"}, {"label": "good", "description": "or better"}],
}


@pytest.fixture
def sdk(fake):
    with openai.OpenAI(base_url=f"{fake.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_each_kind_of_question_is_answered_in_order(sdk):
    """The scripted worker's vocabulary is bytes, and A is half as likely there as B, and B as C."""
    decision = sdk.decisions.create(model="org/fake", input="x", questions=[SCORE, CHOICE, PREDICATE])
    score, choice, predicate = decision.answers
    assert (score.type, score.name) == ("score", "mood")
    assert [(each.value, each.label) for each in score.probabilities] == [(0, "bad"), (1, "good")]
    assert [each.probability for each in score.probabilities] == pytest.approx([1 / 3, 2 / 3])
    assert (score.score, score.confidence) == pytest.approx((2 / 3, 2 / 3))
    assert (choice.type, choice.name, choice.choice) == ("choice", None, "other")
    assert [each.value for each in choice.probabilities] == ["true", True, "other"]
    assert [each.probability for each in choice.probabilities] == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert choice.confidence == pytest.approx(4 / 7)
    assert (predicate.type, predicate.name, predicate.probability) == ("predicate", "late", pytest.approx(1 / 3))
    assert decision.model == "org/fake"
    assert decision.usage.output_tokens == 3
    assert decision.usage.total_tokens == decision.usage.input_tokens + 3


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [PREDICATE] * 401}, "questions"),
        ({"questions": [{**PREDICATE, "type": "essay"}]}, "questions[0]"),
        ({"questions": [{**CHOICE, "choices": CHOICE["choices"][:1]}]}, "questions[0].choice.choices"),
        ({"questions": [{**CHOICE, "choices": [{"value": "a"}] * 2}]}, "questions[0].choice.choices"),
        ({"questions": [{**CHOICE, "choices": [{"value": str(each)} for each in range(27)]}]}, "questions[0]"),
        ({"questions": [{**SCORE, "levels": SCORE["levels"] * 6}]}, "questions[0].score.levels"),
        ({"questions": [{**SCORE, "instructions": [{"type": "input_image"}]}]}, "questions[0].instructions[0]"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_json", "data": 5}]}]}, "input[0].content[0].data"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0].call_id"),
        ({"model": "gone"}, "model"),
    ],
)
def test_what_cannot_be_answered_is_named(client, keys, param):
    response = client.post("/v1/decisions", json={"input": "x", "questions": [PREDICATE]} | keys)
    assert response.status_code == (404 if "model" in keys else 400), response.text
    assert response.json()["error"]["param"] == param


def test_the_starter_model_s_probabilities_are_those_of_its_next_token(launch, starter_model):
    server = launch([REAL, "smollm2-135m", starter_model])
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", timeout=120) as sdk:
        given = [
            {"role": "user", "content": [{"type": "input_json", "data": {"review": "Wonderful! I love it."}}]},
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "sunny"},
        ]
        questions = [PREDICATE, CHOICE, SCORE]
        decision = sdk.decisions.create(model="smollm2-135m", input=given, questions=questions)
        again = sdk.decisions.create(model="smollm2-135m", input=given, questions=questions)
        plain = sdk.decisions.create(model="smollm2-135m", input="What is the capital of France?", questions=[CHOICE])
    for answers in (decision.answers, again.answers):
        for answer in answers[1:]:
            assert sum(each.probability for each in answer.probabilities) == pytest.approx(1)
        assert 0 < answers[0].probability < 1
    assert again.answers[2].score == pytest.approx(decision.answers[2].score, abs=1e-4)
    assert again.usage.input_tokens_details.cached_tokens > 0
    asked = (
        "What is the capital of France?\n\nWhich is it?\n\nA. true: a word\nB. true\nC. other\n\n"
        "Answer with the letter alone."
    )
    with server.client() as client:
        body = {"messages": [{"role": "user", "content": asked}]}
        prompt = client.post("/tokenize", json=body).json()["tokens"]
        labels = [
            [client.post("/tokenize", json={"prompt": spelling}).json()["tokens"] for spelling in (each, f" {each}")]
            for each in "ABC"
        ]
    expected = direct(starter_model, prompt, [[ids[0] for ids in each if len(ids) == 1] for each in labels])
    assert [each.probability for each in plain.answers[0].probabilities] == pytest.approx(expected, abs=1e-4)


def direct(path: Path, prompt: list[int], labels: list[list[int]]) -> list[float]:
    """The same from all log-probabilities of one engine of this process."""
    engine = Engine(path)
    sampling = SamplingParams(max_tokens=1, temperature=0.0, logprobs=engine.info.vocab_size)
    engine.submit(GenerationRequest("a", tuple(prompt), sampling))
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    logprobs = dict(outputs[0].token.top_logprobs)
    weights = np.array([sum(np.exp(logprobs[token_id]) for token_id in ids) for ids in labels])
    return (weights / weights.sum()).tolist()


def test_json_is_given_as_text(start_fake):
    server = start_fake(load={"template": "{{ messages }}"})
    with server.client() as client:
        given = [{"role": "user", "content": [{"type": "input_json", "data": [{"a": "ä"}]}]}]
        response = client.post("/v1/decisions", json={"input": given, "questions": [PREDICATE]})
    expected = (
        '[{"a": "ä"}]\n\nIs this statement true?\nIt is late.\n\nA. true\nB. false\n\nAnswer with the letter alone.'
    )
    assert response.json()["usage"]["input_tokens"] == len(expected.encode())
    assert json.loads(response.text)["answers"][0]["type"] == "predicate"
