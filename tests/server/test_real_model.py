"""The whole way with the starter model: HTTP, template, worker, MLX, and back."""

import os
import signal
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import openai
import psutil
import pytest

from engine.attention.batch import Batch
from engine.cache.layout import Dense
from engine.cache.slots import lone_slot
from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.model import build_model

REAL = Path(__file__).with_name("real_serve.py")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
STORY = [{"role": "user", "content": "Tell me a long story about a bramley apple."}]


@pytest.fixture(scope="module")
def server(launch, starter_model):
    server = launch([REAL, "smollm2-135m", starter_model])
    server.wait_for(lambda: "is loaded" in "".join(server.lines), patience_seconds=60)
    return server


@pytest.fixture
def sdk(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client


def ask(sdk, messages=QUESTION, **keys):
    return sdk.chat.completions.create(model="smollm2-135m", messages=messages, **keys)


def test_the_start_says_how_the_model_runs_and_how_to_ask_it(server):
    printed = "".join(server.lines)
    for word in ("Serving smollm2-135m at http://127.0.0.1:", "curl ", "BLAS", "float32"):
        assert word in printed


def test_the_capital_of_france_is_paris(sdk):
    reply = ask(sdk, temperature=0)
    assert reply.choices[0].message.content == ANSWER
    assert reply.choices[0].finish_reason == "stop"


def test_a_stream_says_what_the_whole_answer_says_for_the_same_seed(sdk):
    keys = {"seed": 7, "temperature": 0.9, "max_tokens": 20}
    whole = ask(sdk, STORY, **keys).choices[0].message.content
    with ask(sdk, STORY, **keys, stream=True) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole
    assert ask(sdk, STORY, **keys | {"seed": 8}).choices[0].message.content != whole


def test_choices_differ_and_repeat(sdk):
    keys = {"seed": 7, "temperature": 1, "max_tokens": 16, "n": 2}
    first, second = ([choice.message.content for choice in ask(sdk, STORY, **keys).choices] for _ in range(2))
    assert first == second
    assert first[0] != first[1]


def test_a_stop_string_over_token_borders_ends_the_answer(sdk):
    reply = ask(sdk, temperature=0, stop=["France is"])
    assert reply.choices[0].message.content == "The capital of "
    assert reply.choices[0].finish_reason == "stop"


def test_scores_are_probabilities_and_greedy_takes_the_best(sdk):
    entries = ask(sdk, temperature=0, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == ANSWER
    for entry in entries:
        assert entry.logprob == max(rival.logprob for rival in entry.top_logprobs) <= 0


def test_a_completion_continues_text_and_ids_alike(sdk, server):
    keys = {"model": "smollm2-135m", "temperature": 0, "max_tokens": 5}
    text = sdk.completions.create(prompt="1, 2, 3, 4,", **keys)
    assert text.choices[0].text.startswith(" 5, 6")
    assert text.usage.completion_tokens == 5
    several = sdk.completions.create(prompt=["1, 2, 3, 4,", "a, b, c, d,"], **keys)
    assert several.choices[0].text == text.choices[0].text
    assert [choice.index for choice in several.choices] == [0, 1]


def test_a_harness_s_prompts_score_as_a_direct_forward_pass_does(sdk, starter_model):
    """Ids, echo, one token, one rival: twice, so that the prompts are in the prefix store the second time."""
    prompts = [list(range(200, 320)), [*range(200, 270), 5, 6, 7]]
    request = {"prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    expected = [direct_logprobs(starter_model, ids) for ids in prompts]  # with the kernels of the worker
    for _ in range(2):
        answer = sdk.completions.create(model="smollm2-135m", **request)
        for ids, choice, own in zip(prompts, answer.choices, expected, strict=True):
            scores = choice.logprobs.token_logprobs
            assert len(scores) == len(choice.logprobs.top_logprobs) == len(ids) + 1
            assert scores[0] is None
            np.testing.assert_allclose(scores[1:-1], own[np.arange(len(ids) - 1), ids[1:]], atol=1e-4)
            best = [max(rivals.values()) for rivals in choice.logprobs.top_logprobs[1:]]
            np.testing.assert_allclose(best, own.max(axis=-1), atol=1e-4)
            assert scores[-1] == best[-1]


def direct_logprobs(path: Path, ids: list[int]) -> np.ndarray:
    """Of every token at every place, of one pass over all ids in this process: (ids, vocab_size)."""
    device = prepare_device("native", None)
    model = build_model(open_checkpoint(path), device, None)
    batch = Batch([lone_slot(model.cache, Dense(), len(ids), kernels=device.native)])
    logits = np.array(model.logits(model(mx.array([ids]), batch)[0]).astype(mx.float32), np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_an_end_token_is_reported_even_when_it_is_the_only_one(sdk):
    reply = sdk.completions.create(
        model="smollm2-135m",
        prompt=f"<|im_start|>user\n{QUESTION[0]['content']}<|im_end|>\n<|im_start|>assistant\n{ANSWER}",
        temperature=0,
        max_tokens=1,
        logprobs=1,
    )
    assert reply.choices[0].text == ""
    assert reply.choices[0].logprobs.tokens == ["<|im_end|>"]


def test_a_prompt_over_the_context_is_refused_and_names_both_numbers(sdk):
    with pytest.raises(openai.BadRequestError, match="prompt is too long") as refused:
        ask(sdk, [{"role": "user", "content": "word " * 10_000}])
    assert refused.value.code == "context_length_exceeded"


def test_a_client_that_leaves_stops_the_work(sdk, server):
    with ask(sdk, STORY, stream=True, max_tokens=2000, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
    worker = psutil.Process(server.process.pid).children()[0]
    time.sleep(1)
    before = sum(worker.cpu_times()[:2])
    time.sleep(1)
    assert sum(worker.cpu_times()[:2]) - before < 0.2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_worker_leaves_signals_of_the_group_to_its_parent(sdk, server, number):
    worker = psutil.Process(server.process.pid).children()[0]
    worker.send_signal(number)
    assert ask(sdk, temperature=0).choices[0].message.content == ANSWER
    assert worker.is_running()


def test_what_the_engine_refuses_is_a_bad_request(sdk):
    with pytest.raises(openai.BadRequestError, match="999999") as refused:
        ask(sdk, logit_bias={"999999": 1})
    assert refused.value.param == "logit_bias"


def test_two_people_are_answered_at_the_same_time(sdk):
    with ask(sdk, STORY, stream=True, max_tokens=300, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
        assert ask(sdk, temperature=0).choices[0].message.content == ANSWER
        assert next(iter(stream)).choices[0].finish_reason is None


def test_a_killed_worker_ends_the_stream_with_an_error_and_the_next_question_is_answered(sdk, server):
    received = []

    def read() -> None:
        with ask(sdk, STORY, stream=True, max_tokens=500, extra_body={"ignore_eos": True}) as stream:
            for chunk in stream:
                if not received:
                    os.kill(psutil.Process(server.process.pid).children()[0].pid, signal.SIGKILL)
                received.append(chunk)

    started = time.monotonic()
    with pytest.raises(openai.APIError, match="ended unexpectedly"):
        read()
    assert time.monotonic() - started < 5
    assert received
    assert ask(sdk, temperature=0).choices[0].message.content == ANSWER
