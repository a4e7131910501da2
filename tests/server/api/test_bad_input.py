"""What cannot be honoured is a 400 that names the field, and nothing bad stops the server."""

import json
import re
import time

import pytest

HELLO = [{"role": "user", "content": "hi"}]
LEAK = re.compile(r"0x[0-9a-f]{6}|/home/|/work|/tmp|/usr|Traceback|server\.|engine\.|pydantic", re.IGNORECASE)

CHAT = "/v1/chat/completions"
DEEP = json.loads('{"a":' * 80 + "1" + "}" * 80)
COMPLETIONS = "/v1/completions"


def error_of(response, status=400):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert not LEAK.search(response.text), response.text
    return error


def post(client, path, **keys):
    base = {"messages": HELLO} if path == CHAT else {"prompt": "hi"}
    body = json.dumps({name: value for name, value in (base | keys).items() if value is not ...})
    return client.post(path, content=body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"nonsense",
        b'{"prompt": "x"} {}',
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b"[" * 100_000,
        b'{"prompt": ' + b'{"a":' * 50_000,
        b'{"seed": ' + b"9" * 5000 + b', "prompt": "x"}',
        b'{"prompt": "\\ud800"}',
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_what_is_not_a_request_is_a_bad_request(client, path, body):
    error_of(client.post(path, content=body))
    assert client.get("/health").json() == {"status": "ok"}


NUMBERS = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0.01, 10),
    "n": (1, 128),
    "top_k": (-1, 2**31 - 1),
    "max_tokens": (-1, 2**31 - 1),
    "min_tokens": (0, 2**31 - 1),
    "seed": (-(2**63), 2**64 - 1),
}
INTEGERS = {"n", "top_k", "max_tokens", "min_tokens", "seed"}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_bounded_both_ways_and_nothing_else_is_a_number(client, path, name):
    low, high = NUMBERS[name]
    wrong = [low - 1, high + 1, "0.7", True, False, [], {}, float("nan"), float("inf"), float("-inf"), 10**400]
    wrong += [1.5] if name in INTEGERS else []
    for value in wrong:
        error = error_of(post(client, path, **{name: value}))
        assert error["param"] in (name, None if value == 10**400 else name), (value, error)
    small = {"max_tokens": 1} if name != "max_tokens" else {}
    for value in (low, None) if name == "n" else (low, high, None):
        assert post(client, path, **small | {name: value}).status_code == 200, (name, value)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_whole_number_is_an_integer_however_it_is_written(client, path):
    body = {"messages": HELLO, "prompt": "hi", "temperature": 1.0, "max_tokens": 3.0, "seed": 7.0}
    assert client.post(path, json=body).json()["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("path", "keys", "param"),
    [
        (CHAT, {"messages": ...}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": None}, "messages"),
        (CHAT, {"messages": "hi"}, "messages"),
        (CHAT, {"messages": {}}, "messages"),
        (CHAT, {"messages": ["hi"]}, "messages[0]"),
        (CHAT, {"messages": [{}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": 1, "content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [*HELLO, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0]"),
        (CHAT, {"messages": [{"role": "user", "content": None}]}, "messages[0]"),
        (CHAT, {"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        (CHAT, {"messages": [{"role": "user", "content": [1]}]}, "messages[0].content"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages[0].content",
        ),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"tools": [{"type": "function"}]}, "tools[0].function"),
        (CHAT, {"tools": [{"type": "web_search"}]}, "tools[0].type"),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (CHAT, {"tools": [{"function": {"name": "f", "parameters": DEEP}}]}, "tools[0].function.parameters"),
        (CHAT, {"reasoning_effort": "a lot"}, "reasoning_effort"),
        (CHAT, {"top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"logprobs": 1}, "logprobs"),
        (CHAT, {"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
        (CHAT, {"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        (CHAT, {"chat_template_kwargs": {f"k{number}": 1 for number in range(50)}}, "chat_template_kwargs"),
        (CHAT, {"model": 5}, "model"),
        (CHAT, {"model": "x" * 1000}, "model"),
        (CHAT, {"stream": "true"}, "stream"),
        (COMPLETIONS, {"prompt": ...}, "prompt"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": [[]]}, "prompt"),
        (COMPLETIONS, {"prompt": [1, "a"]}, "prompt"),
        (COMPLETIONS, {"prompt": [True]}, "prompt"),
        (COMPLETIONS, {"prompt": [-1]}, "prompt"),
        (COMPLETIONS, {"prompt": [258]}, "prompt"),
        (COMPLETIONS, {"prompt": [2**40]}, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 2049}, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 100, "n": 100}, "n"),
        (COMPLETIONS, {"logprobs": 21}, "logprobs"),
        (COMPLETIONS, {"n": 3, "best_of": 2}, "best_of"),
        (COMPLETIONS, {"best_of": 21}, "best_of"),
        (COMPLETIONS, {"stop": ["x"] * 1000}, "stop"),
        (COMPLETIONS, {"stop": "x" * 100_000}, "stop[0]"),
        (COMPLETIONS, {"stop": 5}, "stop[0]"),
        (COMPLETIONS, {"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        (COMPLETIONS, {"logit_bias": {"a": 1}}, "logit_bias.a"),
        (COMPLETIONS, {"logit_bias": {"1": 101}}, "logit_bias"),
        (COMPLETIONS, {"logit_bias": {"1": float("nan")}}, "logit_bias"),
        (COMPLETIONS, {"logit_bias": [1]}, "logit_bias"),
    ],
)
def test_the_field_at_fault_is_named(client, path, keys, param):
    error = error_of(post(client, path, **keys))
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        (CHAT, "modalities", ["text", "audio"]),
        (CHAT, "chat_template", "{{ 1 }}"),
        (CHAT, "prompt_logprobs", 0),
        (COMPLETIONS, "suffix", "x"),
        (COMPLETIONS, "use_beam_search", True),
        (COMPLETIONS, "prompt_embeds", "x"),
    ],
)
def test_a_known_field_that_is_not_honoured_is_refused_by_name(client, path, name, value):
    error = error_of(post(client, path, **{name: value}))
    assert (error["code"], error["param"]) == ("unsupported_parameter", name)
    assert post(client, path, **{name: None}).status_code == 200


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 2, "num_beams": 2}, "best_of"),
        ({"suffix": "x", "echo": True, "logprobs": 1}, "suffix"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(client, keys, param):
    error = error_of(post(client, COMPLETIONS, **keys))
    assert (error["code"], error["param"]) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    "name", ["nope", "../../etc/passwd", "..", "org/../org/fake", "org/fake\x00", "a\r\nb", "\uff21"]
)
def test_an_unknown_model_is_not_found_and_the_served_ones_are_listed(fake, client, name):
    for path in (CHAT, COMPLETIONS):
        error = error_of(post(client, path, model=name), 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "org/fake" in error["message"]
        assert "second" in error["message"]
    assert name not in fake.log


@pytest.mark.parametrize("name", ["nope", "..%2F..%2Fetc%2Fpasswd", "%2e%2e", "a%00b", "x" * 5000])
def test_an_unknown_model_cannot_be_retrieved(client, name):
    assert error_of(client.get(f"/v1/models/{name}"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize("name", ["", None])
def test_no_model_means_the_first(client, name):
    assert post(client, COMPLETIONS, model=name).json()["model"] == "org/fake"


def test_what_the_engine_refuses_is_a_bad_request_also_for_streams(fake, client):
    for stream in (False, True):
        body = fake.script(refuse=["ParameterInvalid", "logit_bias", "Token id 999 is unknown."]) | {"stream": stream}
        error = error_of(client.post(COMPLETIONS, json=body))
        assert error["param"] == "logit_bias"
        assert error["message"] == "Token id 999 is unknown."


def test_what_memory_can_never_hold_is_a_bad_request(fake, client):
    body = fake.script(refuse=["MemoryExceeded", "max_tokens", "This may need 900 MB; 100 MB is all there is."])
    error = error_of(client.post(COMPLETIONS, json=body), 400)
    assert (error["code"], error["param"]) == ("insufficient_memory", "max_tokens")


def test_text_of_unknown_errors_stays_inside(fake, client):
    body = fake.script(refuse=["KeyError", "", "secret of /home/me"])
    assert "secret" not in json.dumps(error_of(client.post(COMPLETIONS, json=body), 500))


def test_huge_parameters_are_refused_quickly(client):
    for keys in (
        {"logit_bias": {str(number): 1 for number in range(300_000)}},
        {"stop": ["x"] * 300_000},
        {"prompt": ["x"] * 300_000},
        {"stop_token_ids": [1] * 300_000},
    ):
        body = json.dumps({"prompt": "hi"} | keys).encode()
        started = time.monotonic()
        error_of(client.post(COMPLETIONS, content=body))
        assert time.monotonic() - started < 1.5


def test_a_bad_request_line_does_not_stop_the_server(fake):
    for raw in (
        b"GET\r\n\r\n",
        b"\x00\x01\x02",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"G\rT / HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        with fake.connect() as connection:
            connection.sendall(raw)
            assert connection.recv(1000)[9:12] in (b"400", b"403")
    with fake.client() as client:
        assert client.get("/health").status_code == 200


def test_the_log_holds_no_prompt_and_no_forged_line(fake, client):
    client.post(COMPLETIONS, json={"prompt": "canary-prompt", "model": "canary-model"})
    client.post(COMPLETIONS, json={"prompt": "canary-prompt"})
    client.get("/v1/models/x%0d%0aforged%1b%5b31m?key=canary-query")
    log = fake.wait_for(lambda: "forged" in fake.log and fake.log)
    assert "canary" not in log
    assert "\x1b" not in log
    assert "\nforged" not in log
    assert re.search(
        r"POST /v1/completions 200 \d+ ms model=org/fake generation=cmpl-\w+ prompt=\d+ completion=\d+", log
    )


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_stop_strings_are_bounded_together(client, path):
    longest = [chr(ord("a") + number) * 4096 for number in range(8)]
    assert post(client, path, stop=longest + longest).status_code == 200
    error = error_of(post(client, path, stop=[*longest, "y"], n=5))
    assert (error["param"], error["message"]) == ("stop", "stop: must hold 32768 characters at most in all.")
