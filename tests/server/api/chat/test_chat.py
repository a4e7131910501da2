"""Chat over a scripted worker: messages, roles, the shape of replies and of their streams."""

import json

import pytest

HELLO = [{"role": "user", "content": "hi"}]


def post(client, messages=HELLO, **body):
    response = client.post("/v1/chat/completions", json={"messages": messages, **body})
    assert response.status_code == 200, response.text
    return response.json()


def shown(client, messages, **body):
    """What the template was given: its last message asks the model to say that."""
    return json.loads(
        post(client, [*messages, {"role": "user", "content": "show"}], **body)["choices"][0]["message"]["content"]
    )


def test_the_answer_has_every_key_of_the_api(client):
    answer = post(client, model="second")
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "second")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "You said: hi", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 13


def test_a_call_of_the_older_form_is_a_call_and_its_result_belongs_to_it(client):
    messages = [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}},
        {"role": "function", "name": "f", "content": "r"},
    ]
    called, result = shown(client, messages)["messages"][:-1]
    function = {"name": "f", "arguments": {"x": 1}}
    assert called["tool_calls"] == [{"id": result["tool_call_id"], "type": "function", "function": function}]
    assert (result["role"], result["name"], result["content"]) == ("tool", "f", "r")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_template_variables_may_be_lists_and_objects_and_null_is_unset(client, path):
    variables = {"enable_thinking": None, "controls": {"length": "long", "none": None}, "tags": ["a", 1]}
    say = [{"role": "user", "content": "show"}]
    body = {"input": say} if path == "/v1/responses" else {"messages": say}
    answer = client.post(path, json={**body, "chat_template_kwargs": variables})
    assert answer.status_code == 200, answer.text
    assert '\\"length\\": \\"long\\"' in answer.text.replace("\\\\", "\\")
    assert "enable_thinking" not in answer.text
    refused = client.post(path, json={**body, "chat_template_kwargs": {"deep": ["x" * 5000]}})
    assert refused.status_code == 400


def test_messages_reach_the_template_with_parts_joined_and_roles_known(client):
    messages = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {}}],
        },
        {"role": "user", "content": "c", "name": "Ann", "unknown": 1},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}}],
        },
        {"role": "tool", "content": "d", "tool_call_id": "1"},
        {"role": "assistant", "content": [], "reasoning_content": "hm"},
    ]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert shown(client, messages)["messages"][:-1] == [
        {"role": "system", "content": "ab"},
        {"role": "user", "content": "c", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "d", "tool_call_id": "1", "name": "f"},
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
    ]


def test_template_variables_and_flags_reach_the_template(client):
    kwargs = {"enable_thinking": False, "level": 2}
    on, off = {"enable_thinking": True, "thinking": True}, {"enable_thinking": False, "thinking": False}
    assert shown(client, [], chat_template_kwargs=kwargs)["variables"] == kwargs
    assert shown(client, [], reasoning_effort="low")["variables"] == {"reasoning_effort": "low"} | on
    assert shown(client, [], reasoning={"effort": "none"})["variables"] == off
    assert shown(client, [], reasoning_effort="low", chat_template_kwargs=off)["variables"]["thinking"] is False
    assert shown(client, [])["generate"] is True
    assert shown(client, [], continue_final_message=True)["continue"] is True
    assert shown(client, [], add_generation_prompt=False)["generate"] is False


def test_max_completion_tokens_wins_and_the_default_is_the_rest_of_the_context(fake, client):
    def max_tokens(**keys):
        content = json.dumps({"say_sampling": True})
        return json.loads(
            post(client, [{"role": "user", "content": content}], **keys)["choices"][0]["message"]["content"]
        )["max_tokens"]

    assert max_tokens(max_tokens=2500, max_completion_tokens=2400) == 2400
    assert max_tokens(max_tokens=2500) == 2500
    assert max_tokens() > 4000
    assert max_tokens(max_tokens=-1) > 4000


def test_unset_and_harmless_fields_change_nothing(client):
    harmless = {
        "temperature": None,
        "stop": None,
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "stream_options": None,
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "parallel_tool_calls": True,
        "logit_bias": None,
        "functions": None,
        "modalities": ["text"],
        "never_heard_of": {"x": [1]},
        "top_p": 1,
    }
    assert post(client, **harmless)["choices"] == post(client)["choices"]


def test_a_template_that_refuses_is_a_bad_request(client):
    response = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "raise"}]})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "chat_template_error", "messages")


def test_a_conversation_over_the_context_names_messages(client):
    response = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x" * 5000}]})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")


def test_scores_spell_the_content_without_the_end_token(client):
    choice = post(client, [{"role": "user", "content": "ä"}], logprobs=True, top_logprobs=2)["choices"][0]
    entries = choice["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == choice["message"]["content"]
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in entries)
    assert post(client, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_a_stream_has_one_role_then_content_then_one_finish(fake, client):
    body = {"messages": HELLO, "stream": True, "n": 2}
    chunks = fake.events(client.post("/v1/chat/completions", json=body))
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert not any("error" in chunk or "usage" in chunk for chunk in chunks)
    for index in (0, 1):
        deltas = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
        assert deltas[-1] == {"index": index, "delta": {}, "logprobs": None, "finish_reason": "stop"}
        assert all(set(each["delta"]) == {"content"} and each["finish_reason"] is None for each in deltas[1:-1])
        assert "".join(each["delta"]["content"] for each in deltas[1:-1]) == "You said: hi"


@pytest.mark.parametrize("content", ["漢字 and 👩‍👩‍👧", "line\nbreaks\r\nand \u2028 odd ones"])
def test_a_stream_holds_whole_characters_and_says_what_the_whole_answer_says(fake, client, content):
    messages = [{"role": "user", "content": content}]
    chunks = fake.events(client.post("/v1/chat/completions", json={"messages": messages, "stream": True}))
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == f"You said: {content}" == post(client, messages)["choices"][0]["message"]["content"]
    assert "\ufffd" not in text


def test_streamed_scores_are_those_of_the_whole_answer(fake, client):
    body = {"messages": HELLO, "logprobs": True, "top_logprobs": 1}
    chunks = fake.events(client.post("/v1/chat/completions", json=body | {"stream": True}))
    streamed = [entry for chunk in chunks for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert (
        streamed
        == post(client, **{key: value for key, value in body.items() if key != "messages"})["choices"][0]["logprobs"][
            "content"
        ]
    )


def test_usage_is_streamed_only_on_demand(fake, client):
    body = {"messages": HELLO, "stream": True}
    asked = fake.events(client.post("/v1/chat/completions", json=body | {"stream_options": {"include_usage": True}}))
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["completion_tokens"] == 13
    assert all(chunk["usage"] is None for chunk in asked[:-1])
    assert not any("usage" in chunk for chunk in fake.events(client.post("/v1/chat/completions", json=body)))
    options = {"continuous_usage_stats": True, "include_usage": True, "include_obfuscation": False}
    every = fake.events(client.post("/v1/chat/completions", json=body | {"stream_options": options}))
    counts = [chunk["usage"]["completion_tokens"] for chunk in every]
    assert counts == sorted(counts)
    assert counts[-1] == 13


def test_stream_headers_forbid_buffering(client):
    response = client.post("/v1/chat/completions", json={"messages": HELLO, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers
    assert "server" not in response.headers


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_told_as_ids_where_that_is_wanted(fake, client, stream):
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream, "n": 2, "return_token_ids": True}
    body |= {"logprobs": True, "return_tokens_as_token_ids": True}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    answers = fake.events(response) if stream else [response.json()]
    assert [answer["prompt_token_ids"] for answer in answers if "prompt_token_ids" in answer] == [[*b"hi"]]
    choices = [choice for answer in answers for choice in answer["choices"] if choice["index"] == 1]
    ids = [*b"You said: hi", 256]
    assert [each for choice in choices for each in choice.get("token_ids", ())] == ids
    entries = [entry for choice in choices for entry in (choice["logprobs"] or {"content": []})["content"]]
    assert [entry["token"] for entry in entries] == [f"token_id:{each}" for each in ids[:-1]]
