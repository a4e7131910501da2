"""T5 and BART behind the OpenAI routes, with the tokens that transformers gives for the same random weights."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import openai
import pytest

REAL = Path(__file__).parents[1] / "real_serve.py"


def spelled(ids) -> str:
    return " ".join(f"w{token_id}" for token_id in ids)


@pytest.fixture(params=["t5", "bart"], scope="module")
def model(request, launch, spelled_model):
    path = spelled_model(request.param)
    reference = {name: np.array(array) for name, array in mx.load(str(path / "fixture.safetensors")).items()}
    row = json.loads((path / "row.json").read_text())
    server = launch([REAL, request.param, path])
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=60) as client:
        arrays = {name: array.reshape(-1).tolist() for name, array in reference.items()}
        yield client, arrays | {"eos": json.loads((path / "config.json").read_text())["eos_token_id"]}, row


def request(reference, **given) -> dict:
    own = {"model": "", "prompt": [int(each) for each in reference["input_ids"]], "max_tokens": 20}
    return own | given | {"extra_body": {"skip_special_tokens": False, **given.get("extra_body", {})}}


def answer_of(reference, name: str) -> str:
    """The reference's tokens without the end token, which is no text."""
    ids = reference[name]
    return spelled(ids[:-1] if ids[-1] == reference["eos"] else ids)


def test_the_greedy_answer_is_the_reference_s_whole_and_streamed(model):
    client, reference, _ = model
    whole = client.completions.create(**request(reference, temperature=0))
    assert whole.choices[0].text.strip() == answer_of(reference, "greedy_ids")
    assert whole.usage.prompt_tokens == len(reference["input_ids"])
    chunks = list(client.completions.create(**request(reference, temperature=0), stream=True))
    assert len(chunks) > 3
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_beams_asked_for_in_the_request_are_the_reference_s(model):
    client, reference, row = model
    for number, given in enumerate(row["beams"]):
        reply = client.completions.create(**request(reference, extra_body=given))
        assert reply.choices[0].text.strip() == answer_of(reference, f"beams_{number}"), given


def test_a_conversation_is_answered_from_its_last_message(model):
    client, reference, _ = model
    source = spelled(reference["input_ids"])
    messages = [
        {"role": "user", "content": "w9 w9"},
        {"role": "assistant", "content": "w8"},
        {"role": "user", "content": source},
    ]
    reply = client.chat.completions.create(
        model="", messages=messages, temperature=0, max_tokens=20, extra_body={"skip_special_tokens": False}
    )
    assert reply.choices[0].message.content.strip() == answer_of(reference, "greedy_ids")


def test_several_at_once_get_what_each_gets_alone(model):
    client, reference, _ = model
    ids = [int(each) for each in reference["input_ids"]]
    prompts = [ids, ids[:6], ids[2:]]
    alone = [
        client.completions.create(**request(reference, prompt=each, temperature=0)).choices[0].text for each in prompts
    ]
    together = client.completions.create(**request(reference, prompt=prompts, temperature=0))
    assert [choice.text for choice in together.choices] == alone


def test_beams_and_a_temperature_exclude_each_other_by_name(model):
    client, reference, _ = model
    with pytest.raises(openai.BadRequestError, match="temperature cannot be combined with num_beams"):
        client.completions.create(**request(reference, temperature=0.5, extra_body={"num_beams": 3}))
