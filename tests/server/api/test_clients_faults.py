"""What is the client's fault is a 400 or 415 with the field's name, never a 500."""

import gzip
import json

import pytest

HALF = "cut \ud83d"
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
HELLO = [{"role": "user", "content": "hi"}]
PARAMETERS = {"type": "object", "properties": {"a": {"type": "string", "description": HALF}}}


def post(client, path, body):
    return client.post(path, content=json.dumps(body))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HELLO, "tools": [{"function": {"name": "f", "parameters": PARAMETERS}}]}),
        (CHAT, {"messages": HELLO, "tools": [{"function": {"name": "f", "parameters": {HALF: 1}}}]}),
        (CHAT, {"messages": HELLO, "chat_template_kwargs": {"x": [HALF]}}),
        (CHAT, {"messages": HELLO, "chat_template_kwargs": {HALF: 1}}),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"id": HALF, "function": {"name": "f"}}]}]}),
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {"schema": PARAMETERS}}}),
        (MESSAGES, {"messages": HELLO, "tools": [{"name": "f", "input_schema": PARAMETERS}]}),
        (MESSAGES, {"messages": HELLO, "tools": [{"type": "web_search_1", "name": HALF}]}),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]}),
        (RESPONSES, {"input": "hi", "tools": [{"type": "web_search", "note": HALF}]}),
        (RESPONSES, {"input": [{"role": "user", "content": "hi", "note": {HALF: 1}}]}),
        (RESPONSES, {"input": [{"role": "user", "content": "hi", "id": HALF}]}),
        (RESPONSES, {"input": "hi", "metadata": {"a": HALF}}),
        (RESPONSES, {"input": "hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": PARAMETERS}}}),
    ],
)
def test_half_a_surrogate_pair_is_a_bad_request_anywhere(client, path, body):
    assert post(client, path, body).status_code == 400


def test_arguments_that_a_model_cut_amid_a_character_are_shown_and_the_conversation_goes_on(client):
    function = {"name": "f", "arguments": '{"a": "cut \\ud83d", "\\ud83d": 1}'}
    said = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}]}
    messages = [*HELLO, said, {"role": "user", "content": "show"}]
    answer = post(client, CHAT, {"messages": messages})
    assert answer.status_code == 200
    shown = json.loads(answer.json()["choices"][0]["message"]["content"])
    assert shown["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": "cut \ufffd", "\ufffd": 1}


@pytest.mark.parametrize("kind", [["a"], {"b": 1}, 7, True])
@pytest.mark.parametrize(
    ("path", "make"),
    [
        (CHAT, lambda kind: {"messages": [{"role": "user", "content": [{"type": kind, "text": "x"}]}]}),
        (CHAT, lambda kind: {"messages": HELLO, "tools": [{"type": kind, "function": {"name": "f"}}]}),
        (CHAT, lambda kind: {"messages": HELLO, "response_format": {"type": kind}}),
        (CHAT, lambda kind: {"messages": HELLO, "tool_choice": {"type": kind}}),
        (MESSAGES, lambda kind: {"messages": [{"role": "user", "content": [{"type": kind, "text": "x"}]}]}),
        (MESSAGES, lambda kind: {"messages": [{"role": "assistant", "content": [{"type": kind, "id": "x"}]}]}),
        (MESSAGES, lambda kind: {"messages": HELLO, "tool_choice": {"type": kind}}),
        (RESPONSES, lambda kind: {"input": [{"type": kind, "role": "user", "content": "x"}]}),
        (RESPONSES, lambda kind: {"input": "x", "tool_choice": {"type": kind}}),
        (RESPONSES, lambda kind: {"input": "x", "text": {"format": {"type": kind}}}),
    ],
)
def test_a_type_that_is_no_word_is_a_bad_request(client, path, make, kind):
    assert post(client, path, make(kind)).status_code == 400


@pytest.mark.parametrize("kind", [["string", "null"], [], [7], 7, None])
def test_a_type_of_a_schema_may_be_a_list_or_is_a_bad_request(client, kind):
    parameters = {"type": "object", "properties": {"a": {"type": kind}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    for choice in ("auto", "required"):
        answer = post(client, CHAT, {"messages": HELLO, "tools": tools, "tool_choice": choice})
        assert answer.status_code in (200, 400), answer.text


def test_a_body_in_another_coding_is_refused_by_its_name(client):
    body = gzip.compress(json.dumps({"messages": HELLO}).encode())
    answer = client.post(CHAT, content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert "gzip" in answer.json()["error"]["message"]
    plain = client.post(CHAT, json={"messages": HELLO}, headers={"content-encoding": "identity"})
    assert plain.status_code == 200


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "function", "function": {"name": "get_weather"}}, "tools[0].name"),
        ({"type": "custom"}, "tools[0].name"),
        ({"type": "namespace", "tools": [{"type": "function", "name": "f"}]}, "tools[0].name"),
        ({"type": "namespace", "name": "n", "tools": [{"type": "function"}]}, "tools[0].tools[0].name"),
    ],
)
def test_a_tool_of_responses_without_a_name_is_refused_where_it_stands(client, tool, param):
    answer = post(client, RESPONSES, {"input": "hi", "tools": [tool]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["code"] == "missing_required_parameter"


@pytest.mark.parametrize(("path", "param"), [(CHAT, "messages"), (RESPONSES, "input")])
def test_a_prompt_that_is_too_long_is_named_as_the_client_does(client, path, param):
    body = {"messages": [{"role": "user", "content": "x" * 5000}]} if path == CHAT else {"input": "x" * 5000}
    error = post(client, path, body).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)
