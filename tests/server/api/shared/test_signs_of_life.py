"""A streamed answer that waits says so: to a client, silence is a server that has died."""

import json

import pytest

SILENT = {"say": "hi", "first_seconds": 4, "prefilled": 7}
CONVERSATION = [{"role": "user", "content": json.dumps(SILENT)}]
STREAMS = {
    "/v1/completions": {"prompt": json.dumps(SILENT)},
    "/v1/chat/completions": {"messages": CONVERSATION},
    "/v1/messages": {"messages": CONVERSATION, "max_tokens": 9},
    "/v1/responses": {"input": json.dumps(SILENT)},
}


@pytest.fixture(scope="module")
def impatient(start_fake):
    return start_fake(stream_ping_seconds=0.1)


@pytest.fixture
def stream(impatient):
    def lines(path: str, body: dict) -> list[str]:
        with impatient.client() as client, client.stream("POST", path, json=body | {"stream": True}) as response:
            assert response.status_code == 200, response.read()
            return list(response.iter_lines())

    return lines


def types(lines: list[str]) -> list[str]:
    return [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_comments_tell_how_far_the_prompt_is_prefilled(stream, path):
    lines = stream(path, STREAMS[path])
    size = len(json.dumps(SILENT)) + (path == "/v1/completions")  # which begins with a token of its own
    begin = next(place for place, line in enumerate(lines) if line.startswith("data: "))
    comments = [line for line in lines[:begin] if line]
    assert len(comments) > 2
    assert comments[-1] == f": prefill 7/{size} tokens"
    assert all(line.startswith(": ") for line in comments)


def test_responses_repeat_that_they_are_in_progress(stream):
    lines = stream("/v1/responses", STREAMS["/v1/responses"])
    assert types(lines)[:4] == ["response.created", *["response.in_progress"] * 3]
    assert types(lines)[-1] == "response.completed"
    numbers = [json.loads(line[6:])["sequence_number"] for line in lines if line.startswith("data: ")]
    assert numbers == list(range(len(numbers)))
    assert not any(line.startswith(":") for line in lines)


def test_messages_begin_and_then_ping(stream):
    lines = stream("/v1/messages", STREAMS["/v1/messages"])
    named = types(lines)
    begin = named.index("message_start")
    assert set(named[:begin]) <= {"ping"}
    assert named[begin + 1 : begin + 4] == ["ping"] * 3
    assert "message_delta" in named[begin + 1 : named.index("content_block_start")]  # of which programs hear
    assert named.count("message_start") == 1
    assert named[-1] == "message_stop"
    start = next(json.loads(line[6:]) for line in lines if "message_start" in line and line.startswith("data: "))
    assert start["message"]["usage"]["input_tokens"] == len(json.dumps(SILENT))


@pytest.mark.parametrize("path", STREAMS)
def test_a_failure_after_the_status_is_an_event(impatient, stream, path):
    failing = json.dumps({"say": "x", "first_seconds": 4, "fail_after": 0})
    body = json.loads(json.dumps(STREAMS[path]).replace(json.dumps(json.dumps(SILENT)), json.dumps(failing)))
    lines = stream(path, body)
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    error = data[-1]["response"]["error"] if path == "/v1/responses" else data[-1]["error"]
    assert "failed" in error["message"]


@pytest.mark.parametrize("path", STREAMS)
def test_a_refusal_before_the_status_keeps_its_own(impatient, path):
    with impatient.client() as client:
        refused = client.post(path, json=STREAMS[path] | {"stream": True, "temperature": 3})
    assert refused.status_code == 400


def test_a_model_that_loads_is_waited_for_with_signs(start_fake):
    server = start_fake(load={"seconds": 4}, names=("org--fake", "second"), stream_ping_seconds=0.1)
    body = {"model": "second", "messages": [{"role": "user", "content": '{"say": "hi"}'}], "stream": True}
    with server.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        lines = list(response.iter_lines())
    assert ": loading second, 100/1000 bytes" in lines
    assert lines[-2] == "data: [DONE]"


def test_a_model_that_fails_to_load_is_an_error_event(start_fake):
    server = start_fake(
        load={"seconds": 4, "fail": "no weights"}, names=("org--fake", "second"), stream_ping_seconds=0.1
    )
    body = {"model": "second", "input": "hi", "stream": True}
    with server.client() as client, client.stream("POST", "/v1/responses", json=body) as response:
        lines = list(response.iter_lines())
    assert types(lines)[0] == "response.created"
    assert types(lines)[-1] == "response.failed"
    last = json.loads([line for line in lines if line.startswith("data: ")][-1][6:])
    assert "no weights" in last["response"]["error"]["message"]


def test_silence_amid_an_answer_has_signs_too(impatient, stream):
    script = json.dumps({"say": "ab", "delay_seconds": 1.5})
    lines = stream("/v1/completions", {"prompt": script})
    first = next(place for place, line in enumerate(lines) if line.startswith("data: "))
    assert ": generating" in lines[first:]


def test_without_pings_the_status_waits_for_the_first_token(start_fake):
    server = start_fake(stream_ping_seconds=0)
    script = json.dumps({"say": "x", "first_seconds": 2, "fail_after": 0})
    with server.client() as client:
        assert client.post("/v1/completions", json={"prompt": script, "stream": True}).status_code == 500


def test_a_client_that_leaves_amid_the_signs_ends_the_work(impatient):
    script = {"say": "x", "first_seconds": 60}
    body = {"prompt": json.dumps(script), "stream": True}
    with impatient.client() as client, client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines).startswith(":")
        impatient.wait_for(lambda: impatient.state()["num_live"] == 1)
    impatient.wait_for(lambda: impatient.state()["num_live"] == 0)
