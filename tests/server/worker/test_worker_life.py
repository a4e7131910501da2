"""A worker that loads, dies, hangs or cannot load; a server that ends. Real processes, killed for real."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow


def request_in_background(server, body: dict) -> tuple[threading.Thread, list]:
    """Post a completion in a thread; the list receives the response."""
    received: list = []

    def post() -> None:
        with server.client() as client:
            received.append(client.post("/v1/completions", json=body))

    thread = threading.Thread(target=post)
    thread.start()
    return thread, received


def test_the_server_answers_while_the_model_loads(start_fake):
    server = start_fake(load={"seconds": 1.5})
    with server.client() as client:
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "loading")
        server.wait_for(
            lambda: client.get("/health").json() == {"status": "loading", "done_bytes": 100, "total_bytes": 1000}
        )
        assert client.get("/v1/models").json()["data"][0]["max_model_len"] is None
        assert server.say(say="waited for it") == "waited for it"
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/v1/models").json()["data"][0]["max_model_len"] == 4096


def test_a_client_that_leaves_while_the_model_loads_costs_nothing(start_fake):
    server = start_fake(load={"seconds": 1})
    with server.connect() as connection:
        body = json.dumps({"prompt": "x"}).encode()
        connection.sendall(
            b"POST /completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        time.sleep(0.2)
    server.wait_for(lambda: " 499 " in server.log)
    assert server.say(say="fine") == "fine"


def test_a_killed_worker_is_told_to_streams_and_others_and_replaced(start_fake):
    server = start_fake()
    first = server.state()["process_id"]
    endless = server.script(say="on and on", delay_seconds=0.01) | {"ignore_eos": True}
    with server.client() as client, client.stream("POST", "/v1/completions", json=endless | {"stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        thread, received = request_in_background(server, endless)
        server.wait_for(lambda: server.state()["num_live"] == 2)
        os.kill(first, signal.SIGKILL)
        killed = time.monotonic()
        *_, error, end = [line for line in lines if line]
        assert time.monotonic() - killed < 1
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "worker_died"
        assert end == "data: [DONE]"
        thread.join()
        assert time.monotonic() - killed < 1
    assert (received[0].status_code, received[0].headers["retry-after"]) == (503, "1")
    assert server.say(say="back again") == "back again"
    assert server.state()["process_id"] != first


def test_a_request_that_kills_its_worker_each_time_is_stopped_by_a_breaker(start_fake):
    server = start_fake()
    deadly = server.script(say="boom", die_after=2)
    with server.client() as client:
        for _ in range(3):
            response = client.post("/v1/completions", json=deadly)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "worker_died")
        refused = server.wait_for(
            lambda: (r := client.post("/v1/completions", json={"prompt": "x"})).headers.get("x-should-retry") and r
        )
        assert refused.status_code == 503
        assert refused.headers["x-should-retry"] == "false"
        assert "3 times" in refused.json()["error"]["message"]
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
        assert "3 times" in health.json()["error"]["message"]
        seconds = int(refused.headers["retry-after"])
        assert 0 < seconds <= 600
        assert "or at once by POST /v1/models/org/fake/load" in refused.json()["error"]["message"]
        assert 0 < int(health.headers["retry-after"]) <= seconds
        card = client.get("/v1/models").json()["data"][0]
        assert (card["state"], 0 < card["retry_seconds"] <= seconds) == ("failed", True)
        assert client.post("/v1/models/org/fake/load").json()["state"] == "ready"
    assert server.say(say="tried again") == "tried again"


def test_a_model_whose_file_has_been_replaced_is_another_model(start_fake):
    server = start_fake(load={"die": True}, names=("replaced",))
    with server.client() as client:
        server.wait_for(lambda: client.get("/health").json()["status"] == "failed")
    folder = Path(psutil.Process(server.process.pid).cmdline()[-1])
    (folder / "load.json").write_text("{}")
    assert server.say(say="mended") == "mended"


def test_loads_that_fail_are_no_crashes(start_fake):
    server = start_fake(load={"fail": "a file is damaged"}, names=("damaged",))
    with server.client() as client:
        for _ in range(5):
            response = client.post("/v1/completions", json={"prompt": "x"})
            assert "a file is damaged. It is tried again with the next request" in response.json()["error"]["message"]
            assert "retry-after" not in response.headers


def test_a_worker_that_hangs_is_seen_and_then_replaced(start_fake):
    server = start_fake(silence_stale_seconds=2, silence_dead_seconds=4)
    first = server.state()["process_id"]
    thread, received = request_in_background(server, server.script(say="stuck", stop_after=1))
    with server.client() as client:
        server.wait_for(lambda: client.get("/health").status_code == 503)
        assert client.get("/health").json()["status"] == "stuck"
        assert client.get("/v1/models").status_code == 200
        thread.join()
        assert received[0].status_code == 503
        server.wait_for(lambda: client.get("/health").json() == {"status": "ok"})
    assert server.state()["process_id"] != first


def test_a_model_that_cannot_be_loaded_says_why_and_the_server_goes_on(start_fake):
    server = start_fake(load={"fail": "model.safetensors is damaged: it ends too early"})
    server.wait_for(lambda: "cannot be used" in "".join(server.lines))
    with server.client() as client:
        response = client.post("/v1/completions", json={"prompt": "x"})
        assert response.status_code == 503
        assert "model.safetensors is damaged" in response.json()["error"]["message"]
        assert response.headers["x-should-retry"] == "false"
        health = client.get("/health")
        assert health.status_code == 503
        assert "model.safetensors" in health.json()["error"]["message"]


def test_a_model_that_can_be_loaded_again_is_served_with_the_next_request(start_fake):
    server = start_fake(load={"fail": "out of luck"}, names=("mended",))
    server.wait_for(lambda: "cannot be used" in "".join(server.lines))
    folder = Path(psutil.Process(server.process.pid).cmdline()[-1])
    (folder / "load.json").write_text("{}")
    assert server.say(say="mended") == "mended"


def test_a_worker_that_dies_while_loading_fails_its_waiters_and_gives_up(start_fake):
    server = start_fake(load={"die": True})
    with server.client() as client:
        server.wait_for(lambda: client.get("/health").json()["status"] == "failed")
        assert client.post("/v1/completions", json={"prompt": "x"}).status_code == 503


def test_the_second_model_is_loaded_when_it_is_first_asked_for(start_fake):
    server = start_fake(names=("one", "two"))
    server.say(say="x")
    assert len(psutil.Process(server.process.pid).children()) == 1
    with server.client() as client:
        answer = client.post("/v1/completions", json={"model": "two", "prompt": "hi", "max_tokens": 50})
        assert answer.json()["choices"][0]["text"] == "You said: hi"
    assert len(psutil.Process(server.process.pid).children()) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_running_answers_finish_and_turns_new_ones_away(start_fake, number):
    server = start_fake()
    worker = server.worker()
    slow = server.script(say="finished in peace", delay_seconds=0.1)
    thread, received = request_in_background(server, slow)
    server.wait_for(lambda: server.state()["num_live"])
    server.process.send_signal(number)
    worker.send_signal(number)  # a terminal and a service manager signal the whole group
    with server.client() as client:
        server.wait_for(lambda: client.get("/health").status_code == 503)
        refused = client.post("/v1/completions", json={"prompt": "x"})
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert refused.headers["retry-after"]
    thread.join()
    assert received[0].json()["choices"][0]["text"] == "finished in peace"
    assert server.process.wait(10) == 0
    assert not worker.is_running()
    assert "Traceback" not in server.log


def test_answers_that_do_not_end_in_time_get_an_error_event(start_fake):
    server = start_fake(drain_seconds=0.5)
    endless = server.script(say="on and on", delay_seconds=0.01) | {"ignore_eos": True, "stream": True}
    with server.client() as client, client.stream("POST", "/v1/completions", json=endless) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        *_, error, end = [line for line in lines if line]
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "server_overloaded"
    assert end == "data: [DONE]"
    assert server.process.wait(10) == 0
    assert "draining: running requests (1) have 0.5 s to finish; a second Ctrl-C ends them at once" in server.log
    assert "Traceback" not in server.log


def test_a_second_signal_ends_everything_at_once(start_fake):
    server = start_fake()
    worker = server.worker()
    endless = server.script(say="on and on", delay_seconds=0.01) | {"ignore_eos": True}
    thread, _ = request_in_background(server, endless)
    server.wait_for(lambda: server.state()["num_live"])
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    started = time.monotonic()
    server.end(signal.SIGTERM)
    assert time.monotonic() - started < 2
    assert not worker.is_running()
    thread.join()


def test_a_killed_server_leaves_no_worker(start_fake):
    server = start_fake()
    worker = server.worker()
    server.end(signal.SIGKILL)
    server.wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, patience_seconds=2)


def test_a_worker_sees_no_secrets_of_the_environment(start_fake):
    server = start_fake(api_keys="secret-key", names=("private",))
    environment = server.worker().environ()
    assert "PATH" in environment
    assert not [name for name in environment if name.startswith(("BRAMLEY_", "HF_"))]
    assert "secret-key" not in " ".join(server.worker().cmdline())


def test_an_idle_server_sleeps(start_fake):
    server = start_fake()
    server.say(say="warm")
    processes = [psutil.Process(server.process.pid), server.worker()]
    before = sum(sum(process.cpu_times()[:2]) for process in processes)
    time.sleep(3)
    after = sum(sum(process.cpu_times()[:2]) for process in processes)
    assert after - before < 0.1
