"""Older and foreign words of requests are read, and answered in their own form."""

import json

import pytest

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
SCHEMA = {"type": "object", "properties": {"x": {"type": "null"}}, "required": ["x"]}


@pytest.fixture(scope="module")
def hermes(start_fake):
    """A server whose model calls in the most common form."""
    return start_fake(load={"template": "<tool_call> {{ tools }}"})


@pytest.fixture
def caller(hermes):
    with hermes.client() as client:
        yield client


def asks(text):
    return [{"role": "user", "content": json.dumps({"say": text})}]


def test_functions_are_answered_as_a_function_call(hermes, caller):
    body = {"messages": asks(CALL + CALL), "functions": [FUNCTION], "function_call": "auto"}
    choice = caller.post(CHAT, json=body).json()["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"x": 1}'}
    assert choice["message"]["content"] is None
    assert "tool_calls" not in choice["message"]
    events = hermes.events(caller.post(CHAT, json=body | {"stream": True}))
    deltas = [event["choices"][0]["delta"] for event in events]
    called = [delta["function_call"] for delta in deltas if "function_call" in delta]
    assert called[0] == {"name": "f", "arguments": ""}
    assert "".join(each["arguments"] for each in called) == '{"x": 1}'
    assert events[-1]["choices"][0]["finish_reason"] == "function_call"
    assert not any("tool_calls" in delta for delta in deltas)


def test_a_stream_that_begins_with_a_call_has_no_empty_content(hermes, caller):
    body = {"messages": asks(CALL), "tools": [{"type": "function", "function": FUNCTION}], "stream": True}
    deltas = [event["choices"][0]["delta"] for event in hermes.events(caller.post(CHAT, json=body))]
    assert deltas[0] == {"role": "assistant"}
    assert not any("content" in delta for delta in deltas)


@pytest.mark.parametrize(("path", "body"), [(CHAT, {"messages": asks("hi")}), (COMPLETIONS, {"prompt": "hi"})])
def test_usage_is_null_before_the_last_chunk_where_it_is_asked_for(fake, client, path, body):
    asked = body | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = fake.events(client.post(path, json=asked))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["usage"]["completion_tokens"] > 0
    assert not any("usage" in chunk for chunk in fake.events(client.post(path, json=body | {"stream": True})))


def test_one_form_under_two_names_is_one(client):
    body = {"messages": asks("hi"), "guided_json": SCHEMA, "structured_outputs": {"json": SCHEMA}}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
    for form in (body, body | {"response_format": response_format}, {**body, "guided_json": json.dumps(SCHEMA)}):
        assert client.post(CHAT, json=form).status_code == 200
    for other in ({"grammar": 'root ::= "x"'}, {"guided_json": {"type": "null"}}):
        assert client.post(CHAT, json=body | other).status_code == 400
    grammars = {"grammar": 'root ::= "x"', "guided_grammar": 'root ::= "x"'}
    assert client.post(CHAT, json={"messages": asks("hi"), **grammars}).status_code == 200


SHELL = {
    "type": "local_shell_call",
    "call_id": "c1",
    "action": {"type": "exec", "command": ["ls"]},
    "status": "completed",
}


def test_items_of_other_servers_tools_are_passed_over_or_shown_as_calls(client):
    items = [
        {"role": "user", "content": "look"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "mcp_list_tools", "id": "m", "server_label": "s", "tools": []},
        {"type": "compaction", "id": "c", "encrypted_content": "x"},
        SHELL,
        {"type": "local_shell_call_output", "call_id": "c1", "output": "a.txt"},
        {"role": "user", "content": "show"},
    ]
    answer = client.post(RESPONSES, json={"input": items})
    assert answer.status_code == 200, answer.text
    shown = json.loads(answer.json()["output"][0]["content"][0]["text"])["messages"]
    assert [message["role"] for message in shown] == ["user", "assistant", "tool", "user"]
    function = shown[1]["tool_calls"][0]["function"]
    assert (function["name"], function["arguments"]) == ("local_shell", {"action": SHELL["action"]})
    assert (shown[2]["content"], shown[2]["tool_call_id"]) == ("a.txt", "c1")
    unknown = client.post(RESPONSES, json={"input": [{"type": "riddle"}]})
    assert unknown.status_code == 400


def test_blocks_of_anthropics_own_tools_are_skipped(client):
    said = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "text", "text": "found"},
    ]
    messages = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "show"},
    ]
    answer = client.post(MESSAGES, json={"messages": messages})
    assert answer.status_code == 200, answer.text
    shown = json.loads(answer.json()["content"][0]["text"])["messages"]
    assert shown[1] == {"role": "assistant", "content": "found"}


def test_truncation_is_refused_only_where_the_prompt_does_not_fit(client):
    short = client.post(RESPONSES, json={"input": "hi", "truncation": "auto"})
    assert (short.status_code, short.json()["truncation"]) == (200, "auto")
    long = client.post(RESPONSES, json={"input": "x" * 5000, "truncation": "auto"})
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("stream", [True, False])
def test_a_character_that_max_tokens_cuts_is_left_out(fake, client, stream):
    body = {"messages": asks("a\u20ac"), "max_tokens": 2, "stream": stream}
    answer = client.post(CHAT, json=body)
    if stream:
        text = "".join(event["choices"][0]["delta"].get("content", "") for event in fake.events(answer))
    else:
        text = answer.json()["choices"][0]["message"]["content"]
    assert text == "a"


def test_models_have_anthropics_capabilities_or_none_for_its_clients(client):
    headers = {"anthropic-version": "2023-06-01"}
    for path in ("/v1/models", "/v1/models/second"):
        card = client.get(path, headers=headers).json()
        assert all(each["capabilities"] is None for each in card.get("data", [card]))
    assert client.get("/v1/models/org/fake").json()["aliases"] == ["an-alias"]


def test_a_persons_own_aliases_are_listed(start_fake):
    server = start_fake(aliases="gpt-4o=org/fake")
    with server.client() as client:
        cards = {card["id"]: card for card in client.get("/v1/models").json()["data"]}
    assert list(cards) == ["org/fake", "gpt-4o"]
    assert cards["gpt-4o"]["root"] == cards["org/fake"]["root"] == "org/fake"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/responses/compact", 404),
        ("POST", "/v1/models/second/dance", 404),
        ("GET", "/v1/responses/resp_1/dance", 404),
        ("POST", "/v1/chat/completions/dance", 404),
        ("POST", "/v1/messages/batches", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/models/second", 405),
    ],
)
def test_an_unknown_route_under_a_known_one_is_not_found(client, method, path, status):
    assert client.request(method, path).status_code == status


def test_desktop_apps_are_let_in_by_a_setting_that_the_refusal_names(start_fake, client):
    refused = client.post(CHAT, json={"messages": asks("x")}, headers={"origin": "app://obsidian.md"})
    assert refused.status_code == 403
    message = refused.json()["error"]["message"]
    assert "app://obsidian.md" in message
    assert "--allowed-origin" in message
    server = start_fake(allowed_origins="app://obsidian.md,tauri://localhost,vscode-webview://*")
    with server.client() as allowed:
        for origin in ("app://obsidian.md", "tauri://localhost", "vscode-webview://1a2b3c"):
            answer = allowed.post(CHAT, json={"messages": asks("x")}, headers={"origin": origin})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
        for origin in ("app://obsidian.md.evil.com", "https://evil.com", "vscode-webview"):
            assert allowed.post(CHAT, json={}, headers={"origin": origin}).status_code == 403
