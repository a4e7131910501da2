"""The Responses API with its official client: events in order, items, tools, and what the server remembers."""

import json
from pathlib import Path

import openai
import pytest

from server.api.responses.prompt import conversation_messages
from server.api.responses.store import ResponseStore, StoredResponse

REAL = Path(__file__).parents[2] / "real_serve.py"
MARKERS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Change files.", "format": {"type": "text"}}
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'


@pytest.fixture(scope="module")
def server(start_fake):
    return start_fake(load={"template": "{{ tools }} <tool_call> </think>", "markers": MARKERS})


@pytest.fixture
def sdk(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def script(text, **keys):
    return json.dumps({"say": text, **keys})


def create(sdk, text, **keys):
    """The whole answer; the same as events, accumulated by the client, says the same."""
    request = {"model": "org/fake", "input": script(text), **keys}
    whole = sdk.responses.create(**request)
    with sdk.responses.stream(**request) as stream:
        events = list(stream)
        streamed = stream.get_final_response()
    assert bare(streamed.output) == bare(whole.output)
    assert streamed.usage == whole.usage
    check_order(events)
    return whole, events


def bare(items):
    """Items without their ids, and without what only the client's accumulator adds."""
    dropped = {"id", "call_id", "parsed", "parsed_arguments"}
    plain = [item.model_dump(exclude=dropped) for item in items]
    for item in plain:
        for part in item.get("content") or ():
            part.pop("parsed", None)
    return plain


def check_order(events):
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    open_item, done = None, []
    for event in events[2:-1]:
        if event.type == "response.output_item.added":
            assert open_item is None
            assert event.output_index == len(done)
            open_item = event.item.id
        elif event.type == "response.output_item.done":
            assert event.item.id == open_item
            done.append(event.item)
            open_item = None
        else:
            assert event.item_id == open_item
    assert [item.id for item in events[-1].response.output] == [item.id for item in done]
    assert len({event.response.id for event in (*events[:2], events[-1])}) == 1


def test_a_text_is_answered_whole_and_streamed(sdk):
    whole, events = create(sdk, "Hello.", instructions="Be brief.")
    assert whole.output_text == "Hello."
    assert whole.status == events[-1].response.status == "completed"
    assert whole.id.startswith("resp_")
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello."


def test_reasoning_text_and_calls_are_items_of_their_own(sdk):
    whole, events = create(sdk, f"<think>hm</think>I look.{CALL}", tools=[TOOL])
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call"]
    reasoning, message, call = whole.output
    assert reasoning.content[0].text == "hm"
    assert message.content[0].text == "I look."
    assert (call.name, json.loads(call.arguments), call.status) == ("get_weather", {"city": "Paris"}, "completed")
    assert whole.usage.output_tokens_details.reasoning_tokens == 4
    assert [event.type for event in events if "reasoning_text" in event.type][-1] == "response.reasoning_text.done"


def test_free_text_of_a_custom_tool_is_unwrapped(sdk):
    text = '<tool_call>{"name": "apply_patch", "arguments": {"input": "*** Begin\\n\\"a\\""}}</tool_call>'
    whole, events = create(sdk, text, tools=[PATCH, {"type": "web_search"}])
    assert [item.type for item in whole.output] == ["custom_tool_call"]
    assert whole.output[0].input == '*** Begin\n"a"'
    deltas = [event.delta for event in events if event.type == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == whole.output[0].input


def test_an_answer_that_is_cut_off_is_incomplete(sdk):
    whole = sdk.responses.create(model="org/fake", input=script("a long answer"), max_output_tokens=6)
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (whole.output_text, whole.output[0].status) == ("a long", "incomplete")
    with sdk.responses.stream(model="org/fake", input=script("a long answer"), max_output_tokens=6) as stream:
        assert list(stream)[-1].type == "response.incomplete"


def test_an_empty_answer_is_an_empty_message(sdk):
    whole, _ = create(sdk, "")
    assert [item.type for item in whole.output] == ["message"]
    assert whole.output_text == ""


def shown(sdk, *items, **keys):
    """What the template was given."""
    items = [*items, {"role": "user", "content": "show"}]
    return json.loads(sdk.responses.create(model="org/fake", input=items, **keys).output_text)


def test_items_become_messages(sdk):
    call = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Paris"}'}
    custom = {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "x"}
    seen = shown(
        sdk,
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "Weather"}, {"type": "input_text", "text": "?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        call,
        custom,
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "done"}]},
        instructions="Be brief.",
        tools=[TOOL],
    )
    roles = [message["role"] for message in seen["messages"]]
    assert roles == ["system", "system", "user", "assistant", "tool", "tool", "user"]
    assistant = seen["messages"][3]
    assert (assistant["content"], assistant["reasoning_content"]) == ("I look.", "hm")
    assert [each["function"]["arguments"] for each in assistant["tool_calls"]] == [{"city": "Paris"}, {"input": "x"}]
    assert seen["messages"][4]["content"] == "sunny"
    assert seen["tools"][0]["function"]["name"] == "get_weather"


def test_a_tool_loop_goes_on_from_the_response_before(sdk):
    first = sdk.responses.create(model="org/fake", input=script(CALL), tools=[TOOL])
    output = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "sunny"}
    seen = shown(sdk, output, previous_response_id=first.id)
    assert [message["role"] for message in seen["messages"]] == ["user", "assistant", "tool", "user"]
    assert seen["messages"][1]["tool_calls"][0]["id"] == seen["messages"][2]["tool_call_id"]
    assert seen["messages"][2]["name"] == "get_weather"


def test_what_is_stored_can_be_read_and_forgotten(sdk):
    kept = sdk.responses.create(model="org/fake", input=script("a"))
    assert sdk.responses.retrieve(kept.id).output_text == "a"
    assert [item.role for item in sdk.responses.input_items.list(kept.id).data] == ["user"]
    with pytest.raises(openai.BadRequestError, match="background"):
        sdk.responses.cancel(kept.id)
    with pytest.raises(openai.BadRequestError, match="stream"):
        list(sdk.responses.retrieve(kept.id, stream=True))
    sdk.responses.delete(kept.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(kept.id)
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.responses.create(model="org/fake", input="hi", previous_response_id=kept.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")
    unkept = sdk.responses.create(model="org/fake", input="hi", store=False)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(unkept.id)


def test_what_was_asked_is_listed_page_by_page(sdk):
    items = [{"role": "user", "content": f"{number}"} for number in range(5)]
    kept = sdk.responses.create(model="org/fake", input=[*items, {"role": "user", "content": script("a")}])
    newest_first = [item.content[0].text for item in sdk.responses.input_items.list(kept.id, limit=2)]
    assert newest_first == [script("a"), "4", "3", "2", "1", "0"]
    page = sdk.responses.input_items.list(kept.id, limit=2, order="asc")
    assert [item.type for item in page.data] == ["message", "message"]
    assert page.has_more
    assert len({item.id for item in page}) == 6
    with pytest.raises(openai.BadRequestError, match="after"):
        sdk.responses.input_items.list(kept.id, after="gone")


def test_an_item_can_be_named_instead_of_sent(sdk):
    first = sdk.responses.create(model="org/fake", input=script(f"<think>hm</think>I look.{CALL}"), tools=[TOOL])
    references = [{"type": "item_reference", "id": item.id} for item in first.output]
    output = {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "sunny"}
    seen = shown(sdk, {"role": "user", "content": "Weather?"}, *references, output)
    assert [message["role"] for message in seen["messages"]] == ["user", "assistant", "tool", "user"]
    assistant = seen["messages"][1]
    assert (assistant["content"], assistant["reasoning_content"]) == ("I look.", "hm")
    assert assistant["tool_calls"][0]["function"]["name"] == "get_weather"


def test_tools_of_a_namespace_are_called_by_both_names(sdk):
    space = {"type": "namespace", "name": "city", "description": "About cities.", "tools": [TOOL, PATCH]}
    text = CALL.replace("get_weather", "city__get_weather")
    whole, _ = create(sdk, text, tools=[space, TOOL])
    call = whole.output[0]
    assert (call.name, call.namespace) == ("get_weather", "city")
    history = call.model_dump(exclude_none=True)
    seen = shown(sdk, {"role": "user", "content": "x"}, history, tools=[space, TOOL])
    assert seen["messages"][1]["tool_calls"][0]["function"]["name"] == "city__get_weather"
    assert [tool["function"]["name"] for tool in seen["tools"]] == [
        "city__get_weather",
        "city__apply_patch",
        "get_weather",
    ]
    assert create(sdk, CALL, tools=[space, TOOL])[0].output[0].namespace is None


def test_what_a_coding_agent_sends_is_answered(server):
    """The fields that Codex's requests have, with tools of every kind."""
    syntax = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
    body = {
        "model": "org/fake",
        "instructions": "You are an agent.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": script(CALL)}]},
        ],
        "tools": [TOOL, {**PATCH, "format": syntax}, {"type": "web_search"}, {"type": "local_shell"}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "a key",
        "text": {"verbosity": "low"},
        "client_metadata": {"a": "b"},
        "service_tier": None,
    }
    with server.client(headers={"originator": "codex_cli_rs", "session_id": "x"}) as client:
        raw = client.post("/v1/responses", json=body).text
    kinds = [line.removeprefix("event: ") for line in raw.splitlines() if line.startswith("event: ")]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert "response.function_call_arguments.done" in kinds


def test_the_grammar_of_a_custom_tool_is_shown_to_the_model(sdk):
    syntax = {"type": "grammar", "syntax": "lark", "definition": "start: /a+/"}
    seen = shown(sdk, tools=[{**PATCH, "format": syntax}])
    assert seen["tools"][0]["function"]["description"].endswith("match this lark grammar:\nstart: /a+/")


def test_a_prompt_is_counted_as_it_is_read(sdk):
    request = {"model": "org/fake", "input": script("hi"), "instructions": "Be brief.", "tools": [TOOL]}
    counted = sdk.responses.input_tokens.count(**request)
    whole = sdk.responses.create(**request)
    assert counted.input_tokens == whole.usage.input_tokens
    again = {"model": "org/fake", "input": script("ab"), "previous_response_id": whole.id}
    assert sdk.responses.input_tokens.count(**again).input_tokens == len(script("ab"))


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "other"}, "truncation"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "other"}, "tools": [TOOL]}, "tool_choice"),
        ({"tool_choice": "perhaps", "tools": [TOOL]}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}, "tools": [TOOL]}, "tool_choice"),
        ({"text": {"format": {"type": "sound"}}}, "text.format"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"input": [{"type": "item_reference", "id": "gone"}]}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input"),
        ({"input": [{"type": "unheard_of"}]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call", "name": 5}]}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_cannot_be_honoured_is_named(server, keys, param):
    with server.client() as client:
        response = client.post("/v1/responses", json={"input": "hi"} | keys)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_a_failure_in_a_stream_is_an_event(server):
    with server.client() as client:
        body = {"input": script("some text", fail_after=4), "stream": True}
        raw = client.post("/v1/responses", json=body).text
    assert "[DONE]" not in raw
    last = json.loads(raw.rstrip("\n").rsplit("data: ", 1)[1])
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"


def test_scores_come_when_asked_for(sdk):
    whole, _ = create(sdk, "ab", include=["message.output_text.logprobs"], top_logprobs=1)
    assert "".join(entry.token for entry in whole.output[0].content[0].logprobs) == "ab"


def test_the_starter_model_answers(launch, starter_model):
    server = launch([REAL, "smollm2-135m", starter_model])
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", timeout=120) as sdk:
        first = sdk.responses.create(model="smollm2-135m", input="What is the capital of France?", temperature=0)
        assert first.output_text == "The capital of France is Paris."
        keys = {"model": "smollm2-135m", "previous_response_id": first.id, "temperature": 0, "max_output_tokens": 8}
        with sdk.responses.stream(input="And of Italy?", **keys) as stream:
            events = list(stream)
        check_order(events)
        assert events[-1].response.usage.input_tokens > first.usage.total_tokens
        # What is asked for is enforced: at temperature 1 this model would not do it by itself.
        request = {"model": "smollm2-135m", "input": "Where is it warm?", "max_output_tokens": 200}
        schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
        shape = {"type": "json_schema", "name": "place", "schema": schema, "strict": True}
        shaped = sdk.responses.create(text={"format": shape}, **request)
        assert json.loads(shaped.output_text)["city"] in ("Paris", "Rome")
        assert shaped.text.format.name == "place"
        tools = [{"type": "function", "name": "look_up", "parameters": schema}, PATCH]
        for name, choice in (("look_up", "required"), ("apply_patch", {"type": "custom", "name": "apply_patch"})):
            offered = [tool for tool in tools if tool["name"] == name] if choice == "required" else tools
            called = sdk.responses.create(tools=offered, tool_choice=choice, **request)
            assert [item.name for item in called.output if item.type.endswith("call")][:1] == [name]


def test_the_thought_of_a_turn_that_was_cut_is_no_thought_of_a_later_turn():
    thought = {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "thought about q1"}],
    }
    turns = [{"role": role, "content": text} for role, text in (("user", "q2"), ("assistant", "a2"), ("user", "q3"))]
    messages = conversation_messages([{"role": "user", "content": "q1"}, thought, *turns])
    assert [message["content"] for message in messages] == ["q1", "q2", "a2", "q3"]
    assert not any("reasoning_content" in message for message in messages)
    kept = conversation_messages([{"role": "user", "content": "q1"}, thought, *turns[1:]])
    assert kept[1]["reasoning_content"] == "thought about q1"


def test_an_item_of_a_stored_response_is_its_own():
    def response(name, given, output):
        return StoredResponse({"id": name, "output": output}, tuple(given), (*given, *output))

    store = ResponseStore()
    own, foreign = {"id": "msg_1", "text": "own"}, {"id": "msg_1", "text": "foreign"}
    store.put(response("first", [], [own]))
    store.put(response("second", [foreign], []))
    assert store.item("msg_1") == own
    assert store.remove("second")
    assert store.item("msg_1") == own
    store.put(response("third", [own], []))
    assert store.remove("first")
    assert store.item("msg_1") == own
    assert store.remove("third")
    assert store.item("msg_1") is None
