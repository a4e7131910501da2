"""Tools and reasoning over a scripted worker: what the template sees, and what of the reply becomes what."""

import json

import openai
import pytest

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
OTHER = CALL.replace("Paris", "Rome")
MARKERS = ["<tool_call>", "</tool_call>", "<think>", "</think>", "<unused>"]


@pytest.fixture(scope="module")
def server(start_fake):
    return start_fake(load={"template": "{{ tools }} <tool_call> </think>", "markers": MARKERS})


@pytest.fixture(scope="module")
def wordless(start_fake):
    """A model whose template knows no tools."""
    return start_fake(load={"template": "{{ messages }}"})


@pytest.fixture
def sdk(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def script(text, **keys):
    return [{"role": "user", "content": json.dumps({"say": text, **keys})}]


def say(sdk, text, *, tools=(TOOL,), **keys):
    """The choice of a whole answer; a stream, folded by the client, says the same."""
    request = {"model": "org/fake", "messages": script(text), "tools": list(tools), **keys}
    if not tools:
        del request["tools"]
    whole = sdk.chat.completions.create(**request).choices[0]
    with sdk.chat.completions.stream(**request) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == whole.finish_reason
    assert (streamed.message.content or None) == (whole.message.content or None)
    assert calls(streamed) == calls(whole)
    return whole


def calls(choice):
    return [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or ()]


def test_a_call_is_a_call_whole_and_streamed(sdk):
    choice = say(sdk, f"I look.\n{CALL}")
    assert calls(choice) == [("get_weather", {"city": "Paris"})]
    assert choice.message.content == "I look.\n"
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].id.startswith("call_")
    assert choice.message.tool_calls[0].type == "function"


def test_a_call_alone_has_null_for_content_and_no_call_has_no_key(server):
    with server.client() as client:
        body = {"messages": script(CALL), "tools": [TOOL]}
        message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
        assert message["content"] is None
        body = {"messages": script("hi"), "tools": [TOOL]}
        message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
        assert message == {"role": "assistant", "content": "hi", "refusal": None}


def test_streamed_calls_have_the_shape_of_the_api(server):
    body = {"messages": script(CALL + OTHER), "tools": [TOOL], "stream": True}
    with server.client() as client:
        chunks = server.events(client.post("/v1/chat/completions", json=body))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant"}
    assert deltas[-1] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    pieces = [piece for delta in deltas[1:-1] for piece in delta["tool_calls"]]
    begins = [piece for piece in pieces if "id" in piece]
    assert [piece["index"] for piece in begins] == [0, 1]
    assert len({piece["id"] for piece in begins}) == 2
    for piece in begins:
        assert piece["type"] == "function"
        assert piece["function"] == {"name": "get_weather", "arguments": ""}
    for piece in pieces:
        assert piece in begins or set(piece) == {"index", "function"}
        assert piece in begins or set(piece["function"]) == {"arguments"}
    assert len([piece for piece in pieces if piece["index"] == 0]) > 5


def test_one_call_at_most_where_they_may_not_run_side_by_side(server, sdk):
    assert len(calls(say(sdk, CALL + OTHER))) == 2
    choice = say(sdk, CALL + OTHER, parallel_tool_calls=False)
    assert calls(choice) == [("get_weather", {"city": "Paris"})]
    assert choice.finish_reason == "tool_calls"
    server.wait_for(lambda: server.state()["num_live"] == 0)


def test_without_tools_nothing_is_looked_for(sdk):
    assert (
        say(sdk, f"a {CALL}", tools=()).message.content
        == 'a \n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
    )
    choice = say(sdk, f"a {CALL}", tool_choice="none")
    assert choice.finish_reason == "stop"
    assert not choice.message.tool_calls


def test_control_tokens_that_mean_nothing_to_the_parser_stay_out_of_the_text(sdk):
    assert say(sdk, "a<unused>b").message.content == "ab"
    assert say(sdk, "a<unused>b", extra_body={"skip_special_tokens": False}).message.content == "a<unused>b"


def test_a_reply_that_is_cut_off_amid_a_call_says_so(sdk):
    length = CALL.index("Paris") - len("<tool_call>") + 1
    choice = sdk.chat.completions.create(model="org/fake", messages=script(CALL), tools=[TOOL], max_tokens=length)
    choice = choice.choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.name == "get_weather"


def test_stop_strings_and_scores_go_with_tools(sdk):
    choice = say(sdk, f"Well then. {CALL}", stop=["then"])
    assert (choice.message.content, choice.finish_reason) == ("Well ", "stop")
    choice = say(sdk, f"<think>hm</think>Well. {CALL}", logprobs=True, top_logprobs=1)
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content == "Well. "


def test_reasoning_is_set_apart_and_counted(server, sdk):
    for tools in ((), (TOOL,)):
        choice = say(sdk, "<think>\nhm ä\n</think>\n\nYes.", tools=tools)
        assert choice.message.reasoning_content == "hm ä"
        assert choice.message.content == "Yes."
    reply = sdk.chat.completions.create(model="org/fake", messages=script("<think>ab</think>c"))
    assert reply.usage.completion_tokens_details.reasoning_tokens == 4
    assert reply.usage.completion_tokens == 6
    with server.client() as client:
        body = {"messages": script("<think>ab</think>c"), "stream": True}
        deltas = [
            chunk["choices"][0]["delta"] for chunk in server.events(client.post("/v1/chat/completions", json=body))
        ]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "ab"
    assert not [delta for delta in deltas if "reasoning_content" in delta and "content" in delta]


def test_reasoning_can_be_left_out_or_left_alone(sdk):
    text = "<think>ab</think>c"
    hidden = say(sdk, text, extra_body={"include_reasoning": False})
    assert hidden.message.content == "c"
    assert "reasoning_content" not in hidden.message.model_extra
    for tools in ((), (TOOL,)):
        assert say(sdk, text, tools=tools, extra_body={"reasoning_format": "none"}).message.content == text


def test_reasoning_that_the_prompt_has_opened_is_reasoning(server):
    """The fake template passes the last message on, so a message can end like a template that opens the reasoning."""
    body = {"messages": [{"role": "assistant", "content": '<think>{"say": "x"}'}], "continue_final_message": True}
    with server.client() as client:
        message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert message["reasoning_content"].startswith("You said: ")
    assert message["content"] == ""


def test_tools_and_their_history_reach_the_template(server):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
        {"role": "user", "content": "show"},
    ]
    with server.client() as client:
        body = {"messages": messages, "tools": [TOOL], "tool_choice": "auto"}
        answer = client.post("/v1/chat/completions", json=body).json()
        seen = json.loads(answer["choices"][0]["message"]["content"])
        body["tool_choice"] = "none"
        without = json.loads(client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"])
    assert seen["tools"] == [TOOL]
    assert "tools" not in without
    assert seen["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"city": "Paris"}
    assert seen["messages"][1]["reasoning_content"] == "hm"
    assert seen["messages"][2] == {"role": "tool", "content": "sunny", "tool_call_id": "c1", "name": "get_weather"}


def test_a_template_without_tools_is_told_of_them_in_words(wordless):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "user", "content": "show"},
    ]
    with wordless.client() as client:
        answer = client.post("/v1/chat/completions", json={"messages": messages, "tools": [TOOL]}).json()
        seen = json.loads(answer["choices"][0]["message"]["content"])
        reply = client.post("/v1/chat/completions", json={"messages": script(CALL), "tools": [TOOL]})
    system, assistant, tool, _ = seen["messages"]
    assert system["content"].startswith("Be brief.\n\n")
    assert '"get_weather"' in system["content"]
    assert json.loads(assistant["content"].split("\n")[1])["arguments"] == {"city": "Paris"}
    assert tool == {"role": "user", "content": "<tool_response>\nsunny\n</tool_response>"}
    assert reply.status_code == 200


def test_older_names_mean_the_same(sdk):
    extra = {"functions": [TOOL["function"]], "function_call": "auto"}
    called = say(sdk, CALL, tools=(), extra_body=extra).message.function_call
    assert (called.name, json.loads(called.arguments)) == ("get_weather", {"city": "Paris"})


def test_only_allowed_tools_are_offered(server):
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "get_weather"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    body = {"messages": [{"role": "user", "content": "show"}], "tools": [TOOL, other], "tool_choice": choice}
    with server.client() as client:
        answer = client.post("/v1/chat/completions", json=body).json()
    assert json.loads(answer["choices"][0]["message"]["content"])["tools"] == [TOOL]
