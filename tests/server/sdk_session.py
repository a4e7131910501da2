"""Talk to a server as the official client would; run as a program, so that any release of the client can be loaded.

Usage: python sdk_session.py BASE_URL. Prints the client's version when everything held.
"""

import sys

import openai

MODEL = "smollm2-135m"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def main(base_url: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0)
    chat_holds(client)
    completion_holds(client)
    models_hold(client)
    print(openai.__version__)


def chat_holds(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    assert whole.choices[0].message.content == "The capital of France is Paris."
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    sampled = {"model": MODEL, "messages": QUESTION, "seed": 11, "temperature": 0.9, "top_p": 0.95, "max_tokens": 24}
    expected = client.chat.completions.create(**sampled).choices[0].message.content
    assert streamed(client, **sampled) == expected
    stopped = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, stop=["Fran"])
    assert stopped.choices[0].message.content == "The capital of "
    scored = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, logprobs=True, top_logprobs=2, max_tokens=5
    )
    entries = scored.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == scored.choices[0].message.content
    assert all(entry.logprob == entry.top_logprobs[0].logprob <= 0 for entry in entries)


def streamed(client: openai.OpenAI, **request: object) -> str:
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options=options))
    assert chunks[-1].usage.completion_tokens > 0
    assert not chunks[-1].choices
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])


def completion_holds(client: openai.OpenAI) -> None:
    request = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0.8, "seed": 3}
    whole = client.completions.create(**request, logprobs=1)
    assert whole.choices[0].finish_reason in ("length", "stop")
    assert len(whole.choices[0].logprobs.tokens) == whole.usage.completion_tokens
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**request, stream=True)]
    assert "".join(pieces) == whole.choices[0].text


def models_hold(client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    for call in (
        lambda: client.models.retrieve("no-such-model"),
        lambda: client.chat.completions.create(model="no-such-model", messages=QUESTION),
    ):
        try:
            call()
        except openai.NotFoundError as error:
            assert error.code == "model_not_found"
        else:
            raise AssertionError("an unknown model was found")


if __name__ == "__main__":
    main(sys.argv[1])
