"""Streams while they flow: failures, clients that leave, clients that dawdle, many at once."""

import asyncio
import contextlib
import json
import re
import socket
import time

import httpx
import psutil
import pytest

ENDLESS = {"say": "on and on ", "delay_seconds": 0.01}


def request_bytes(body: dict, path: str = "/v1/completions") -> bytes:
    content = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def live(server) -> int:
    """How many requests the worker runs, without the one that asks."""
    return server.state()["num_live"]


def test_tokens_are_sent_as_they_come(fake, client):
    body = fake.script(say="slowly!", delay_seconds=0.05) | {"stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        arrivals = [time.monotonic() for line in response.iter_lines() if line.startswith("data: {")]
    assert len(arrivals) >= 7
    assert arrivals[-1] - arrivals[0] > 0.25


def test_a_stream_that_fails_ends_with_an_error_event_and_its_end_mark(fake, client):
    for path, body in (
        ("/v1/completions", fake.script(say="some text", fail_after=4)),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": json.dumps({"say": "some text", "fail_after": 4})}]},
        ),
    ):
        response = client.post(path, json=body | {"stream": True})
        assert response.status_code == 200
        *chunks, last = fake.events(response)
        assert last["error"]["code"] == "internal_error"
        assert set(last["error"]) == {"message", "type", "param", "code"}
        assert not any("error" in chunk for chunk in chunks)
        assert not any(chunk["choices"][0]["finish_reason"] for chunk in chunks)


def test_what_fails_before_the_first_token_has_a_status(fake, client):
    for stream in (True, False):
        response = client.post("/v1/completions", json=fake.script(say="x", fail_after=0) | {"stream": stream})
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal_error"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("first_seconds", [0, 30])
@pytest.mark.slow
def test_a_client_that_leaves_frees_the_worker_at_once(fake, stream, first_seconds):
    body = fake.script(**ENDLESS, first_seconds=first_seconds) | {"stream": stream, "ignore_eos": True, "n": 3}
    with fake.connect() as connection:
        connection.sendall(request_bytes(body))
        fake.wait_for(lambda: live(fake) == 3)
    left = time.monotonic()
    fake.wait_for(lambda: not live(fake))
    assert time.monotonic() - left < 1
    fake.wait_for(lambda: " 499 " in fake.log or "left=True" in fake.log)


def test_many_clients_that_leave_at_random_moments_leave_nothing_behind(start_fake):
    server = start_fake()
    process = psutil.Process(server.process.pid)
    server.say(say="warm")
    num_files = process.num_fds()
    body = request_bytes(server.script(**ENDLESS) | {"stream": True, "ignore_eos": True, "n": 2})
    for cut in range(150):
        with server.connect() as connection:
            connection.sendall(body[: len(body) - (cut % 7 == 0)])
            if cut % 3:
                connection.settimeout(0.002 * (cut % 5) + 0.001)
                with contextlib.suppress(TimeoutError):
                    connection.recv(cut + 1)
    server.wait_for(lambda: not live(server))
    server.wait_for(lambda: process.num_fds() <= num_files + 2)


def test_two_hundred_and_fifty_six_streams_at_once_are_all_whole(fake):
    async def one(client: httpx.AsyncClient, number: int) -> str:
        body = fake.script(say=f"stream {number}", delay_seconds=0.05) | {"stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            lines = [line async for line in response.aiter_lines() if line]
        assert lines.pop() == "data: [DONE]"
        return "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines)

    async def everybody() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=fake.url, timeout=60, limits=limits) as client:
            return await asyncio.gather(*(one(client, number) for number in range(256)))

    assert asyncio.run(everybody()) == [f"stream {number}" for number in range(256)]


def test_a_full_queue_answers_at_once_and_says_when_to_come_back(start_fake):
    server = start_fake(max_queue=2)
    waiting = [server.connect() for _ in range(2)]
    for connection in waiting:
        connection.sendall(request_bytes(server.script(**ENDLESS) | {"ignore_eos": True}))
    with server.client() as client:
        refused = server.wait_for(
            lambda: (r := client.post("/v1/completions", json={"prompt": "x"})).status_code == 503 and r
        )
        assert refused.json()["error"]["code"] == "server_overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/health").status_code == 200
        time.sleep(1.1)  # in which nothing is finished
        assert int(client.post("/v1/completions", json={"prompt": "x"}).headers["retry-after"]) >= 2
        for connection in waiting:
            connection.close()
        server.wait_for(lambda: client.post("/v1/completions", json={"prompt": "x"}).status_code == 200)


@pytest.mark.slow
def test_a_reader_that_stalls_is_let_go_and_holds_up_nobody(start_fake):
    server = start_fake(stalled_reader_seconds=1)
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    with stalled:
        stalled.connect(("127.0.0.1", server.port))
        body = server.script(say="x" * 500) | {
            "stream": True,
            "ignore_eos": True,
            "max_tokens": -1,
            "logprobs": 3,
            "n": 128,
        }
        stalled.sendall(request_bytes(body))
        server.wait_for(lambda: live(server))
        started = time.monotonic()
        assert server.say(say="quick") == "quick"
        assert time.monotonic() - started < 2
        server.wait_for(lambda: not live(server), patience_seconds=30)
        server.wait_for(lambda: "left=True" in server.log)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comp", request_bytes({"prompt": "x" * 100})[:-20]])
def test_a_sender_that_dawdles_is_told_so_and_holds_up_nobody(start_fake, sent):
    server = start_fake(read_timeout_seconds=0.5)
    with server.connect() as slow:
        slow.sendall(sent)
        assert server.say(say="quick") == "quick"
        answer = b"".join(iter(lambda: slow.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    assert server.say(say="still here") == "still here"


def test_an_idle_connection_is_kept_and_a_long_answer_is_not_cut(start_fake):
    server = start_fake(read_timeout_seconds=0.4)
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(request_bytes(server.script(say="late", first_seconds=1)))
            answer = b""
            while b'"late"' not in answer:
                answer += connection.recv(4096) or pytest.fail("the connection was closed")
            time.sleep(1)
        connection.sendall(b"GET /heal")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.slow
def test_an_answer_arrives_without_delay(client):
    client.post("/v1/completions", json={"prompt": "x"})
    started = time.monotonic()
    for _ in range(20):
        client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
    assert time.monotonic() - started < 0.6  # Nagle's algorithm would cost 40 ms each


def whole_answer(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_sends_no_more_still_gets_its_answer(fake, stream):
    body = fake.script(say="an answer", first_seconds=0.3) | {"stream": stream}
    with fake.connect() as connection:
        connection.sendall(request_bytes(body))
        connection.shutdown(socket.SHUT_WR)
        answer = whole_answer(connection)
    lines = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert set(lines[:-1]) <= {b"HTTP/1.1 100 Continue"}
    assert lines[-1] == b"HTTP/1.1 200 OK"
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") if stream else b'"an answer"' in answer


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/models/x/load"])
def test_a_client_that_leaves_while_it_sends_is_one_line(start_fake, path):
    server = start_fake()
    with server.connect() as connection:
        connection.sendall(request_bytes({"prompt": "x" * 1000}, path)[:-500])
        server.say(say="the server has read it")
    server.wait_for(lambda: f"POST {path} 499 " in server.log)
    lines = server.log.splitlines()
    assert len([line for line in lines if path in line and "200" not in line.split()[-5:]]) >= 1
    assert not [line for line in lines if "Traceback" in line or "ERROR" in line]


@pytest.mark.parametrize(
    "begun", [b"POST /v1/completions HTTP/1.1\r\nHost: loc", request_bytes({"prompt": "x" * 99})[:-9]]
)
def test_a_request_that_is_sent_along_with_another_has_its_own_clock(start_fake, begun):
    server = start_fake(read_timeout_seconds=0.5)
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + begun)
        answer = whole_answer(connection)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"408"]


def test_a_body_that_is_refused_before_it_has_come_gets_one_answer(start_fake):
    server = start_fake(read_timeout_seconds=0.5, max_body_bytes=1024)
    with server.connect() as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{")
        answer = whole_answer(connection)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"413"]
