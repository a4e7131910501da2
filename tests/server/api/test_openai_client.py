"""The official client against the server: what people's programs call."""

import json
from collections.abc import Iterator

import openai
import pytest

HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
def sdk(fake) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{fake.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_chat_whole_and_streamed_say_the_same(sdk):
    whole = sdk.chat.completions.create(model="org/fake", messages=HELLO)
    assert whole.choices[0].message.content == "You said: hi"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole._request_id.startswith("req_")
    options = {"include_usage": True}
    with sdk.chat.completions.create(model="org/fake", messages=HELLO, stream=True, stream_options=options) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "You said: hi"
    assert chunks[-1].usage == whole.usage


def test_the_stream_helper_accumulates_a_whole_reply(sdk):
    with sdk.chat.completions.stream(model="org/fake", messages=HELLO) as stream:
        stream.until_done()
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == "You said: hi"
    assert completion.choices[0].finish_reason == "stop"


def test_completion_whole_and_streamed_say_the_same(sdk):
    keys = {"model": "org/fake", "prompt": ["a", [98]], "max_tokens": 50, "stop": "zzz", "seed": 1}
    whole = sdk.completions.create(**keys, logprobs=2)
    assert [choice.text for choice in whole.choices] == ["You said: a", "You said: b"]
    assert len(whole.choices[0].logprobs.tokens) == len(whole.choices[0].logprobs.text_offset) == 12
    texts = ["", ""]
    for chunk in sdk.completions.create(**keys, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


def test_chat_scores_are_typed(sdk):
    reply = sdk.chat.completions.create(model="org/fake", messages=HELLO, logprobs=True, top_logprobs=2)
    entries = reply.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == reply.choices[0].message.content
    assert len(entries[0].top_logprobs) == 2


def test_models_are_listed_and_retrieved(sdk):
    assert [model.id for model in sdk.models.list()] == ["org/fake", "second"]
    assert sdk.models.retrieve("org/fake").id == "org/fake"


def test_errors_are_the_client_s_own_and_explain_themselves(sdk):
    with pytest.raises(openai.NotFoundError, match="org/fake") as not_found:
        sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("gpt-4o")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        sdk.chat.completions.create(model="org/fake", messages=HELLO, temperature=9)
    with pytest.raises(openai.BadRequestError, match="web_search_options is not supported"):
        sdk.chat.completions.create(model="org/fake", messages=HELLO, web_search_options={})


def test_an_error_in_a_stream_is_raised(sdk):
    messages = [{"role": "user", "content": json.dumps({"say": "some text", "fail_after": 4})}]
    received = []

    def read() -> None:
        with sdk.chat.completions.create(model="org/fake", messages=messages, stream=True) as stream:
            received.extend(chunk.choices[0].delta.content for chunk in stream)

    with pytest.raises(openai.APIError, match="step failed"):
        read()
    assert "".join(received) == "some"


def test_a_stream_that_is_closed_frees_the_worker(fake, sdk):
    messages = [{"role": "user", "content": json.dumps({"say": "on and on ", "delay_seconds": 0.01})}]
    extra = {"ignore_eos": True}
    with sdk.chat.completions.create(model="org/fake", messages=messages, stream=True, extra_body=extra) as stream:
        next(iter(stream))
        assert fake.state()["num_live"] == 1
    fake.wait_for(lambda: fake.state()["num_live"] == 0)


def test_the_client_s_retries_hide_a_worker_that_dies_once(start_fake):
    server = start_fake()
    worker = server.worker()
    server.say(say="warm")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
        worker.kill()
        reply = client.chat.completions.create(model="org/fake", messages=HELLO)
    assert reply.choices[0].message.content == "You said: hi"
