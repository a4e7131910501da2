"""Anthropic's Messages API with its official client: blocks, events, tools, thinking, counts and errors."""

import json
from pathlib import Path

import anthropic
import pydantic
import pytest

REAL = Path(__file__).parents[2] / "real_serve.py"
MARKERS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'


class Place(pydantic.BaseModel):
    city: str


@pytest.fixture(scope="module")
def server(start_fake):
    return start_fake(load={"template": "{{ tools }} <tool_call> </think>", "markers": MARKERS})


@pytest.fixture
def sdk(server):
    with anthropic.Anthropic(base_url=server.url, api_key="unused", max_retries=0) as client:
        yield client


def script(text, **keys):
    return [{"role": "user", "content": json.dumps({"say": text, **keys})}]


def create(sdk, text, **keys):
    """The whole answer; the same as events, accumulated by the client, says the same."""
    request = {"model": "org/fake", "max_tokens": 500, "messages": script(text), **keys}
    whole = sdk.messages.create(**request)
    with sdk.messages.stream(**request) as stream:
        events = list(stream)
        streamed = stream.get_final_message()
    assert bare(streamed) == bare(whole)
    check_order([event for event in events if event.type in WIRE_EVENTS])
    return whole


WIRE_EVENTS = ("message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop")


def bare(message):
    """A message without its ids, and without what only the client's accumulator adds."""
    plain = message.model_dump(exclude={"id"})
    for block in plain["content"]:
        block.pop("parsed_output", None)
        block.pop("id", None)
    return plain


def check_order(events):
    kinds = [event.type for event in events]
    blocks = kinds[1:-2]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert blocks == ["content_block_start", "content_block_stop"] * (len(blocks) // 2)
    assert [event.index for event in events[1:-2]] == [index // 2 for index in range(len(blocks))]


def test_a_text_is_answered_whole_and_streamed(sdk):
    answer = create(sdk, "Hello.", system="Be brief.")
    assert [(block.type, block.text) for block in answer.content] == [("text", "Hello.")]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "org/fake")
    assert answer.id.startswith("msg_")
    assert answer.usage.output_tokens == 7
    assert answer._request_id.startswith("req_")
    assert [block.text for block in create(sdk, "").content] == [""]


def test_thinking_text_and_calls_are_blocks_of_their_own(sdk):
    answer = create(sdk, f"<think>hm</think>I look.{CALL}", tools=[TOOL])
    thinking, text, call = answer.content
    assert (thinking.type, thinking.thinking, bool(thinking.signature)) == ("thinking", "hm", True)
    assert (text.type, text.text) == ("text", "I look.")
    assert (call.type, call.name, call.input) == ("tool_use", "get_weather", {"city": "Paris"})
    assert call.id.startswith("toolu_")
    assert answer.stop_reason == "tool_use"
    assert answer.usage.output_tokens_details.thinking_tokens == 4
    hidden = create(sdk, "<think>hm</think>Yes.", thinking={"type": "adaptive", "display": "omitted"})
    assert [block.type for block in hidden.content] == ["thinking", "text"]
    assert hidden.content[0].thinking == ""


def test_a_thought_that_is_not_shown_is_a_sign_of_life(server):
    thinking = {"type": "enabled", "display": "omitted"}
    with server.client() as client:
        body = {"messages": script("<think>hm</think>Yes."), "thinking": thinking, "stream": True}
        raw = client.post("/v1/messages", json=body).text
    assert raw.count('event: ping\ndata: {"type":"ping"}\n\n') == 2
    assert "hm" not in raw


def test_what_a_coding_agent_sends_is_answered(server):
    """The fields that Claude Code's requests have, its tools of both kinds among them."""
    cached = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": "org/fake",
        "max_tokens": 32000,
        "temperature": 1,
        "system": [text("x-anthropic-billing-header: cch=1;"), {**text("You are an agent."), **cached}],
        "messages": [
            {"role": "user", "content": [text("<system-reminder>Be kind.</system-reminder>"), text("Hello")]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, text("Hi.")]},
            {"role": "user", "content": [{**text(json.dumps({"say": CALL})), **cached}]},
        ],
        "tools": [
            {**TOOL, "eager_input_streaming": True},
            {"name": "bash", "input_schema": {"$schema": "x", "properties": {"command": {"type": "string"}}}},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
        ],
        "metadata": {"user_id": "user_1_session_2"},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "stream": True,
    }
    headers = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
    }
    with server.client(headers=headers) as client:
        raw = client.post("/v1/messages?beta=true", json=body).text
        counted = client.post("/v1/messages/count_tokens?beta=true", json=body)
    assert '"stop_reason":"tool_use"' in raw
    assert counted.json()["input_tokens"] > 0


def test_it_says_why_it_stopped(sdk):
    cut = create(sdk, "a long answer", max_tokens=6)
    assert (cut.content[0].text, cut.stop_reason) == ("a long", "max_tokens")
    stopped = create(sdk, "one, two, three", stop_sequences=["two", "three"])
    assert (stopped.content[0].text, stopped.stop_reason, stopped.stop_sequence) == ("one, ", "stop_sequence", "two")
    amid_call = create(sdk, CALL, tools=[TOOL], max_tokens=len(CALL) - len("<tool_call></tool_call>") - 4)
    assert amid_call.stop_reason == "max_tokens"
    assert amid_call.content[0].input == {}
    full = create(sdk, "a" * 3000, max_tokens=5000)
    assert full.stop_reason == "model_context_window_exceeded"


def test_one_call_at_most_where_they_may_not_run_side_by_side(sdk):
    assert len(create(sdk, CALL + CALL, tools=[TOOL]).content) == 2
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    answer = create(sdk, CALL + CALL, tools=[TOOL], tool_choice=choice)
    assert [block.type for block in answer.content] == ["tool_use"]
    assert create(sdk, f"a {CALL}", tools=[TOOL], tool_choice={"type": "none"}).stop_reason == "end_turn"


def shown(sdk, *messages, **keys):
    """What the template was given."""
    messages = [*messages, {"role": "user", "content": "show"}]
    answer = sdk.messages.create(model="org/fake", max_tokens=4000, messages=messages, **keys)
    return json.loads(answer.content[0].text)


def text(value):
    return {"type": "text", "text": value, "cache_control": {"type": "ephemeral"}}


def test_blocks_become_messages(sdk):
    document = {"type": "text", "media_type": "text/plain", "data": "It rains."}
    seen = shown(
        sdk,
        {"role": "user", "content": [text("Weather"), {"type": "document", "title": "Log", "source": document}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                text("I "),
                text("look."),
                {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}},
                {"type": "tool_use", "id": "t2", "name": "get_weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [text("sunny"), {"type": "image"}]},
                {"type": "tool_result", "tool_use_id": "t2", "is_error": True, "content": "no city"},
                text("And?"),
            ],
        },
        {"role": "system", "content": "Hurry."},
        {"role": "assistant", "content": "Yes."},
        system=[text("Be kind."), text("Be brief.")],
        tools=[TOOL, {"type": "web_search_20250305", "name": "web_search"}],
    )
    system, user, assistant, first, second, last = seen["messages"][:-2]
    assert system == {"role": "system", "content": "Be kind.\nBe brief."}
    assert user == {"role": "user", "content": "Weather\nLog\nIt rains."}
    assert (assistant["content"], assistant["reasoning_content"]) == ("I look.", "hm")
    assert [call["function"]["arguments"] for call in assistant["tool_calls"]] == [{"city": "Paris"}, {}]
    assert (first["role"], first["tool_call_id"], first["content"]) == ("tool", "t1", "sunny\n[image]")
    assert (second["name"], second["content"]) == ("get_weather", "Error: no city")
    assert last == {"role": "user", "content": "And?\nHurry."}
    assert [tool["function"]["name"] for tool in seen["tools"]] == ["get_weather"]
    assert seen["tools"][0]["function"]["parameters"] == TOOL["input_schema"]


def test_the_line_a_coding_agent_is_billed_by_is_no_part_of_the_prompt(sdk):
    billed = text("x-anthropic-billing-header: cc_version=2.1.107.3d9; cc_entrypoint=cli; cch=74943;")
    for system in ([billed, text("Be brief.")], f"{billed['text']}\nBe brief."):
        assert shown(sdk, system=system)["messages"][0] == {"role": "system", "content": "Be brief."}


def test_models_are_listed_for_this_client_too(server, sdk):
    listed = list(sdk.models.list())
    assert [(model.id, model.type, model.display_name) for model in listed] == [("org/fake", "model", "org/fake")]
    assert sdk.models.retrieve("org/fake").created_at.year == 2027
    assert listed[0].max_input_tokens == 4096
    with server.client() as client:
        assert client.head("/api/hello").status_code == 200


def test_thinking_is_switched_on_and_off(sdk):
    assert shown(sdk, thinking={"type": "disabled"})["variables"]["enable_thinking"] is False
    on = shown(sdk, thinking={"type": "enabled", "budget_tokens": 2000}, output_config={"effort": "low"})
    assert (on["variables"]["enable_thinking"], on["variables"]["reasoning_effort"]) == (True, "low")
    assert shown(sdk)["variables"] == {}


def test_a_thought_has_a_budget(sdk):
    thinking = {"type": "enabled", "budget_tokens": 1234}
    messages = [{"role": "user", "content": json.dumps({"say_sampling": True})}]
    answer = sdk.messages.create(model="org/fake", max_tokens=3000, messages=messages, thinking=thinking)
    assert "1234" in json.dumps(json.loads(answer.content[0].text)["grammar"])


def test_an_answer_that_is_begun_is_gone_on_with(sdk):
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [text("I think")]}]
    answer = sdk.messages.create(model="org/fake", max_tokens=500, messages=messages)
    assert answer.content[0].text == "You said: I think"
    messages[1]["content"] = "show"
    answer = sdk.messages.create(model="org/fake", max_tokens=2000, messages=messages)
    assert json.loads(answer.content[0].text)["continue"] is True


def test_a_prompt_is_counted_as_it_is_read(sdk):
    request = {"model": "org/fake", "messages": script("hi"), "system": "Be brief.", "tools": [TOOL]}
    count = sdk.messages.count_tokens(**request)
    usage = sdk.messages.create(**request, max_tokens=9).usage
    assert count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    assert count.model_dump() == {"input_tokens": count.input_tokens}


def test_an_answer_of_a_shape_is_read_by_the_client(server, sdk):
    request = {"model": "org/fake", "max_tokens": 99, "messages": script('{"city": "Rome"}'), "output_format": Place}
    assert sdk.messages.parse(**request).parsed_output == Place(city="Rome")
    with sdk.messages.stream(**request) as stream:
        assert stream.get_final_message().parsed_output == Place(city="Rome")
    bad = {"type": "json_schema", "schema": {"type": "object", "$ref": "http://elsewhere.example/schema"}}
    with server.client() as client:
        body = {"messages": script("x"), "output_config": {"format": bad}}
        message = check_error(client.post("/v1/messages", json=body), 400, "invalid_request_error")["message"]
    assert "output_config.format" in message


def test_a_tool_loop_of_the_client_ends(sdk):
    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return json.dumps({"say": f"It is sunny in {city}."})

    runner = sdk.beta.messages.tool_runner(model="org/fake", max_tokens=500, tools=[get_weather], messages=script(CALL))
    answers = list(runner)
    assert [answer.stop_reason for answer in answers] == ["tool_use", "end_turn"]
    assert answers[-1].content[0].text == "It is sunny in Paris."


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"n": 2}, "n is"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"tool_choice": {"type": "tool", "name": "other"}, "tools": [TOOL]}, "tool_choice.name"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "server_tool_use"}]}]},
            "messages[0].content[0] is not supported: it is a block of type server_tool_use",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url"}}]}]}, "source"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "citations": {"enabled": True}}]}]},
            "messages[0].content[0].citations",
        ),
        ({"tools": [{"name": "a b"}]}, "messages"),
        ({"tools": [{"name": "f", "input_schema": "x"}]}, "tools[0].input_schema"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"system": [{"type": "image"}]}, "system[0]"),
    ],
)
def test_what_cannot_be_honoured_is_named(server, keys, named):
    with server.client() as client:
        response = client.post("/v1/messages", json={"max_tokens": 5, "messages": script("x")} | keys)
    assert response.status_code == 400, response.text
    error = response.json()
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert named in error["error"]["message"]


def test_what_changes_nothing_is_passed_over(sdk):
    extra = {"metadata": {"user_id": "u"}, "service_tier": "auto", "context_management": {"edits": []}, "speed": None}
    assert create(sdk, "a", extra_body=extra, extra_query={"beta": "true"}).content[0].text == "a"


def test_errors_have_the_envelope_of_the_api_that_was_called(server, sdk):
    with server.client() as client:
        for path in ("/v1/messages", "/messages/", "/v1/v1/messages/count_tokens"):
            check_error(client.post(path, content="{"), 400, "invalid_request_error")
        check_error(client.get("/v1/messages"), 405, "invalid_request_error")
        check_error(client.post("/v1/messages/batches"), 404, "not_found_error")
        unknown = client.post("/v1/messages", json={"model": "gone", "messages": script("x")})
        check_error(unknown, 404, "not_found_error")
        headers = {"host": "evil.example"}
        check_error(client.post("/v1/messages", headers=headers), 403, "permission_error")
        long = {"messages": [{"role": "user", "content": "x" * 5000}]}
        error = check_error(client.post("/v1/messages", json=long), 400, "invalid_request_error")
        assert "prompt is too long" in error["message"]
        failed = client.post("/v1/messages", json={"messages": script("x", fail_after=0)})
        check_error(failed, 500, "api_error")
        for path in ("/v1/chat/completions", "/v1/responses", "/v1/nothing"):
            error = client.post(path, content="{", headers={"anthropic-version": "2023-06-01"}).json()
            assert set(error) == {"error"}
            assert set(error["error"]) == {"message", "type", "param", "code"}
    with pytest.raises(anthropic.NotFoundError, match="org/fake") as refused:
        sdk.messages.create(model="gone", max_tokens=5, messages=script("x"))
    assert refused.value.type == "not_found_error"
    assert refused.value.request_id == refused.value.body["request_id"]


def check_error(response, status, kind):
    error = response.json()
    assert response.status_code == status, response.text
    assert (error["type"], error["error"]["type"]) == ("error", kind)
    assert set(error["error"]) <= {"type", "message", "details"}
    assert error["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return error["error"]


def test_a_failure_in_a_stream_is_an_event(server, sdk):
    with pytest.raises(anthropic.APIStatusError) as failed:
        list(sdk.messages.create(model="org/fake", max_tokens=99, messages=script("text", fail_after=2), stream=True))
    assert failed.value.body["error"]["type"] == "api_error"
    with server.client() as client:
        raw = client.post("/v1/messages", json={"messages": script("text", fail_after=2), "stream": True}).text
    last = raw.removesuffix("\n\n").rsplit("\n\n", 1)[1]
    assert last.startswith('event: error\ndata: {"type":"error",')


def test_keys_and_a_full_queue_have_statuses_of_their_own(start_fake):
    server = start_fake(api_keys="secret", max_queue=1)
    with server.client() as client:
        check_error(client.post("/v1/messages", json={"messages": script("x")}), 401, "authentication_error")
    for key in ({"api_key": "secret"}, {"auth_token": "secret"}):
        with anthropic.Anthropic(base_url=server.url, **key) as sdk:
            assert sdk.messages.create(model="org/fake", max_tokens=9, messages=script("x")).content[0].text == "x"
    with anthropic.Anthropic(base_url=server.url, api_key="secret", max_retries=0) as sdk:
        slow = script("xy", delay_seconds=0.5)
        with (
            sdk.messages.create(model="org/fake", max_tokens=9, messages=slow, stream=True),
            pytest.raises(anthropic.OverloadedError) as refused,
        ):
            sdk.messages.create(model="org/fake", max_tokens=9, messages=script("x"))
        assert (refused.value.status_code, refused.value.type) == (529, "overloaded_error")
        retrying = sdk.with_options(max_retries=4)
        assert retrying.messages.create(model="org/fake", max_tokens=9, messages=script("x")).content[0].text == "x"


def test_the_starter_model_answers(launch, starter_model):
    server = launch([REAL, "smollm2-135m", starter_model])
    with anthropic.Anthropic(base_url=server.url, api_key="unused", timeout=120) as sdk:
        question = [{"role": "user", "content": "What is the capital of France?"}]
        answer = sdk.messages.create(
            model="smollm2-135m", max_tokens=20, messages=question, extra_body={"temperature": 0}
        )
        assert answer.content[0].text == "The capital of France is Paris."
        assert answer.stop_reason == "end_turn"
        begun = [*question, {"role": "assistant", "content": "The capital of France"}]
        with sdk.messages.stream(
            model="smollm2-135m", max_tokens=20, messages=begun, extra_body={"temperature": 0}
        ) as stream:
            assert "".join(stream.text_stream).strip() == "is Paris."
        # What is asked for is enforced: at temperature 1 this model would not do it by itself.
        request = {"model": "smollm2-135m", "max_tokens": 200, "extra_body": {"temperature": 1, "seed": 7}}
        schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
        output = {"format": {"type": "json_schema", "schema": schema | {"additionalProperties": False}}}
        shaped = sdk.messages.create(messages=question, output_config=output, **request)
        assert json.loads(shaped.content[0].text)["city"] in ("Paris", "Rome")
        tool = {"name": "look_up", "input_schema": schema}
        for choice in ({"type": "any"}, {"type": "tool", "name": "look_up"}):
            called = sdk.messages.create(messages=question, tools=[tool], tool_choice=choice, **request)
            assert [block.name for block in called.content if block.type == "tool_use"]
            assert called.content[-1].input["city"] in ("Paris", "Rome")
