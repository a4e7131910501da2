"""Tokens without an answer: over the scripted worker's bytes, and the starter model's own tokenizer."""

from pathlib import Path

import pytest

REAL = Path(__file__).parents[2] / "real_serve.py"
HELLO = [{"role": "user", "content": "hi"}]


def post(client, path, **body):
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_text_becomes_ids_and_back(fake, client):
    fake.say(say="loaded")
    expected = {"count": 3, "max_model_len": 4096, "tokens": [257, 104, 105], "token_strs": None}
    assert post(client, "/tokenize", prompt="hi") == post(client, "/v1/tokenize", prompt="hi") == expected
    assert post(client, "/tokenize", prompt="hi", add_special_tokens=False)["tokens"] == [104, 105]
    assert post(client, "/tokenize", prompt="hi", return_token_strs=True)["token_strs"] == ["<s>", "h", "i"]
    assert post(client, "/detokenize", tokens=[257, 104, 105]) == {"prompt": "<s>hi", "content": "<s>hi"}
    assert post(client, "/detokenize", tokens=[])["prompt"] == ""


def test_the_short_form_answers_in_short(client):
    assert post(client, "/tokenize", content="hi") == {"tokens": [104, 105]}
    assert post(client, "/tokenize", content="h", add_special=True)["tokens"] == [257, 104]
    pieces = [{"id": 0xC3, "piece": [0xC3]}, {"id": 0xA4, "piece": [0xA4]}]
    assert post(client, "/tokenize", content="ä", with_pieces=True) == {"tokens": pieces}


def test_a_conversation_is_tokenized_and_rendered_like_a_chat_s(client):
    assert post(client, "/tokenize", messages=HELLO)["tokens"] == [104, 105]
    assert post(client, "/apply-template", messages=HELLO) == {"prompt": "hi"}
    show = [{"role": "user", "content": "show"}]
    assert (
        "get_weather"
        in post(client, "/apply-template", messages=show, tools=[{"function": {"name": "get_weather"}}])["prompt"]
    )
    used = post(client, "/v1/chat/completions", messages=show)["usage"]["prompt_tokens"]
    assert post(client, "/tokenize", messages=show)["count"] == used


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [999]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/apply-template", {"messages": [{"role": "user", "content": "raise"}]}, "messages"),
    ],
)
def test_what_cannot_be_tokenized_is_a_bad_request(client, path, body, param):
    response = client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_the_tokenizer_tells_of_itself(client):
    info = client.get("/tokenizer_info").json()
    assert info["chat_template"] == "{{ tools }}"
    assert {"tokenizer_class", "bos_token", "eos_token", "pad_token"} <= info.keys()
    assert client.get("/tokenizer_info", params={"model": "nope"}).status_code == 404


def test_the_starter_model_counts_as_it_is_billed(launch, starter_model):
    server = launch([REAL, "smollm2-135m", starter_model])
    with server.client(timeout=60) as client:
        counted = post(client, "/tokenize", messages=HELLO, return_token_strs=True)
        answer = post(client, "/v1/chat/completions", messages=HELLO, max_tokens=1)
        assert counted["count"] == answer["usage"]["prompt_tokens"]
        assert counted["token_strs"][0] == "<|im_start|>"
        rendered = post(client, "/apply-template", messages=HELLO)["prompt"]
        assert post(client, "/tokenize", prompt=rendered, add_special_tokens=False)["tokens"] == counted["tokens"]
        assert post(client, "/detokenize", tokens=counted["tokens"])["prompt"] == rendered
        assert client.get("/tokenizer_info").json()["eos_token"] in ("<|im_end|>",)
