"""Models that come and go: a real server, a store of tiny models, and a real worker process for each that is loaded."""

import json
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from server.store.pull import pull
from server.store.store import Store

NAMES = ("alpha", "beta", "gamma")
# Keys and values get 1.33 GB each that tiny models never fill: two models fit into the budget, a third does not.
LIMITS = {"kv_gb": 1.0, "memory_budget_gb": 4.0}


@pytest.fixture(scope="session")
def small_store(tmp_path_factory, spelled_model) -> Store:
    """Three whole models, alpha, beta and gamma, and `broken`, which cannot be loaded."""
    store = Store(tmp_path_factory.mktemp("store"))
    for name in (*NAMES, "broken"):
        folder = spelled_model("llama", max_position_embeddings=2048)
        named = folder.with_name(name)
        folder.rename(named)
        pull(str(named), store)
    path = store.root / "broken" / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"hidden_act": "silu"', '"hidden_act": "nope"'))
    manifest = store.root / "broken" / "bramley.json"
    record = json.loads(manifest.read_text())
    record["files"]["config.json"]["bytes"] = path.stat().st_size
    manifest.write_text(json.dumps(record))
    return store


@pytest.fixture(scope="session")
def start_small(launch, small_store):
    """Start a server of the small store; the first of the names is the default model."""

    def start(*arguments: str, **settings):
        return launch(
            ["-m", "server.cli.app", "serve", *(arguments or ("alpha",))],
            **{"models_dir": small_store.root, "hf_hub_cache": ""} | LIMITS | settings,
        )

    return start


@pytest.fixture(scope="session")
def crowded(start_small):
    """A server with room for two of its three models, shared by tests that leave it as it is."""
    return start_small("alpha", "--alias", "gpt-4o=beta")


def complete(client: httpx.Client, model: str, **body) -> httpx.Response:
    body = {"model": model, "prompt": [5, 6, 7], "max_tokens": 4, "ignore_eos": True} | body
    return client.post("/v1/completions", json=body)


def status(client: httpx.Client) -> dict:
    return client.get("/v1/status").raise_for_status().json()


def states(client: httpx.Client) -> dict[str, str]:
    return {model["id"]: model["state"] for model in status(client)["models"]}


def workers(server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def test_every_model_of_the_store_answers_by_its_name_and_the_least_used_one_leaves(crowded):
    with crowded.client() as client:
        for name in ("alpha", "beta", "gamma"):
            answer = complete(client, name)
            assert (answer.status_code, answer.json()["model"]) == (200, name), answer.text
        assert states(client) == {"alpha": "unloaded", "beta": "ready", "gamma": "ready", "broken": "unloaded"}
        assert len(workers(crowded)) == 2
        listed = {card["id"]: card["state"] for card in client.get("/v1/models").json()["data"]}
        assert listed.pop("gpt-4o") == "ready"  # an alias of beta
        assert listed == states(client)


def test_an_alias_of_a_person_and_the_last_part_of_a_name_are_names(crowded):
    with crowded.client() as client:
        assert complete(client, "gpt-4o").json()["model"] == "gpt-4o"
        assert complete(client, "BETA").status_code == 200
        assert client.get("/v1/models/gpt-4o").json()["id"] == "beta"
        assert complete(client, "gpt-5").json()["error"]["code"] == "model_not_found"


def test_a_model_that_cannot_be_loaded_leaves_the_others_alone(crowded):
    with crowded.client() as client:
        complete(client, "beta")
        before = {worker.pid for worker in workers(crowded)}
        refused = complete(client, "broken")
        assert refused.status_code == 503
        assert "hidden_act" in refused.json()["error"]["message"]
        assert states(client)["broken"] == "failed"
        assert complete(client, "beta").status_code == 200
        assert len(before & {worker.pid for worker in workers(crowded)}) >= 1


def test_many_who_wait_for_one_model_cause_one_load(crowded):
    with crowded.client() as client:
        client.post("/v1/models/alpha/unload").raise_for_status()
        loads = crowded.log.count(" loads")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: complete(client, "alpha").status_code, range(8)))
        assert answers == [200] * 8
        assert len([worker for worker in workers(crowded) if worker.cmdline()[-2].endswith("alpha")]) == 1
        assert crowded.log.count(" loads") == loads + 1


def test_a_model_can_be_loaded_and_unloaded_by_hand(crowded):
    with crowded.client() as client:
        loaded = client.post("/v1/models/gamma/load").raise_for_status().json()
        assert (loaded["state"], loaded["kind"], loaded["context_length"]) == ("ready", "decoder", 2048)
        assert loaded["memory"]["resident_bytes"] > 10e6
        process = psutil.Process(loaded["process_id"])
        unloaded = client.post("/v1/models/gamma/unload").raise_for_status().json()
        assert (unloaded["state"], unloaded["process_id"]) == ("unloaded", None)
        assert not process.is_running()
        assert client.post("/v1/models/none/load").status_code == 404


def test_an_unload_waits_for_running_answers(crowded):
    with crowded.client() as client, crowded.client() as other:
        client.post("/v1/models/gamma/load").raise_for_status()
        with client.stream("POST", "/v1/completions", json=stream_of("gamma", 400)) as stream:
            lines = stream.iter_lines()
            next(lines)
            unloading = threading.Thread(target=lambda: other.post("/v1/models/gamma/unload"))
            unloading.start()
            with crowded.client() as third:
                crowded.wait_for(lambda: states(third)["gamma"] in ("draining", "unloaded"))
            assert num_tokens(lines) == 400
        unloading.join()
        assert states(client)["gamma"] == "unloaded"


def stream_of(model: str, max_tokens: int) -> dict:
    asked = {"model": model, "prompt": [5], "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    return asked | {"stream_options": {"include_usage": True}}


def num_tokens(lines) -> int:
    """Tokens of a stream that ends as it should."""
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    return json.loads(events[-2])["usage"]["completion_tokens"]


def test_a_model_that_can_never_fit_is_refused_with_both_numbers(start_small):
    server = start_small("alpha", "--pin", "alpha", memory_budget_gb=2.0)
    with server.client() as client:
        assert complete(client, "alpha").status_code == 200
        refused = complete(client, "beta")
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert (error["code"], error["param"]) == ("insufficient_memory", "model")
        assert "2.00 GB together, of which pinned models hold 1." in error["message"]
        assert refused.headers["x-should-retry"] == "false"
        assert complete(client, "alpha").status_code == 200
    too_small = start_small("alpha", wait=False, memory_budget_gb=0.5)
    assert too_small.process.wait(20) == 1
    assert "needs about" in "".join(too_small.lines)


def test_an_idle_model_is_unloaded_after_its_time_and_a_pinned_one_stays(start_small):
    server = start_small("alpha", "--pin", "alpha", "--idle-minutes", "0.02")
    with server.client() as client:
        complete(client, "alpha")
        complete(client, "beta")
        server.wait_for(lambda: states(client)["beta"] == "unloaded")
        assert states(client)["alpha"] == "ready"
        assert len(workers(server)) == 1
        assert complete(client, "beta").status_code == 200


def test_a_prompt_is_estimated_before_it_is_sent(crowded):
    with crowded.client() as client:
        client.post("/v1/models/beta/unload").raise_for_status()
        body = {"model": "beta", "prompt": "w5 w6 " * 200}
        cold = client.post("/v1/estimate", json=body).raise_for_status().json()
        assert cold["state"] == "unloaded"
        assert (cold["cached_tokens"], cold["fits"], cold["memory"]["fits"]) == (0, True, True)
        assert states(client)["beta"] == "unloaded"
        complete(client, "beta", prompt=body["prompt"])
        warm = client.post("/v1/estimate", json=body).raise_for_status().json()
        assert warm["prompt_tokens"] == cold["prompt_tokens"] >= 400
        assert warm["cached_tokens"] >= 384
        assert warm["uncached_tokens"] == warm["prompt_tokens"] - warm["cached_tokens"]
        assert 0 < warm["ttft_ms"] < 10_000
        assert warm["load_ms"] == 0
        long = client.post("/v1/estimate", json=body | {"max_tokens": 4000}).json()
        assert long["fits"] is False


def test_lines_of_the_log_are_json_where_asked_and_hold_no_prompt_and_no_key(start_small):
    server = start_small("alpha", "--log-format", "json", api_keys="a-secret-key")
    with server.client(headers={"authorization": "Bearer a-secret-key"}) as client:
        assert complete(client, "alpha", prompt="w55 w56 w57", max_tokens=5).status_code == 200
        client.get("/v1/status", params={"w55": "a-secret-key"})
    lines = server.wait_for(lambda: [json.loads(line) for line in server.log.splitlines() if "/completions" in line])
    line = lines[0]
    assert (line["model"], line["completion"], line["status"], line["level"]) == ("alpha", 5, 200, "info")
    assert {"request_id", "prompt", "cached", "ttft_ms", "tok_s", "duration_ms", "time"} <= line.keys()
    assert not [word for word in ("w55", "a-secret-key") if word in server.log]
    assert all(json.loads(line) for line in server.log.splitlines())


def test_twenty_streams_complete_after_the_signal_to_end(start_small):
    server = start_small("alpha", "--max-rows", "20")
    begun = threading.Barrier(21)

    def stream(_) -> int:
        body = stream_of("alpha", 600)
        with server.client() as client, client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            begun.wait(60)
            return num_tokens(lines)

    with ThreadPoolExecutor(20) as pool:
        answers = pool.map(stream, range(20))
        begun.wait(60)
        server.process.send_signal(signal.SIGTERM)
        health = server.wait_for(lambda: (r := httpx.get(f"{server.url}/health")).status_code == 503 and r)
        assert health.json()["status"] == "draining"
        assert list(answers) == [600] * 20
    assert server.process.wait(30) == 0


def test_sixteen_clients_and_three_models_lose_nothing(start_small):
    """The short form of scripts/bench --only residency, which counts loads against the least possible."""
    server = start_small("alpha", "--idle-minutes", "0.02")
    names = random.Random(7).choices(NAMES, k=60)
    with server.client(limits=httpx.Limits(max_connections=16)) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda name: (name, complete(client, name)), names))
        assert [(name, answer.status_code) for name, answer in answers] == [(name, 200) for name in names]
        assert " ended with code" not in server.log
        server.wait_for(lambda: not workers(server))
        assert status(client)["memory"]["reserved_bytes"] == 0


def test_loads_killed_at_random_points_are_made_good(start_small):
    rng, server = random.Random(3), start_small("alpha")
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        for name in (*NAMES, *NAMES):
            client.post(f"/v1/models/{name}/unload").raise_for_status()
            loading = pool.submit(load, server, name)
            worker = server.wait_for(lambda name=name: worker_of(server, name))
            time.sleep(rng.uniform(0, 0.5))
            worker.kill()
            assert loading.result().status_code in (200, 503)
            answer = server.wait_for(lambda name=name: (r := complete(client, name)).status_code == 200 and r, 30)
            assert answer.json()["usage"]["completion_tokens"] == 4


def load(server, name: str) -> httpx.Response:
    with server.client(timeout=60) as client:
        return client.post(f"/v1/models/{name}/load")


def worker_of(server, name: str) -> psutil.Process | None:
    try:
        return next((worker for worker in workers(server) if worker.cmdline()[-2].endswith(name)), None)
    except (psutil.Error, IndexError):
        return None


def test_servers_killed_at_random_points_leave_nothing_behind(start_small, small_store, tmp_path):
    rng, whole = random.Random(5), [model.id for model in small_store.list()]
    for _ in range(6):
        server = start_small("beta", wait=False, memory_file=tmp_path / "memory.json")
        time.sleep(rng.uniform(0, 1.5))
        orphans = workers(server)
        server.process.kill()
        server.process.wait()
        psutil.wait_procs(orphans, timeout=10)
        assert not [worker for worker in orphans if worker.is_running()]
        assert [model.id for model in small_store.list()] == whole
    server = start_small("beta", memory_file=tmp_path / "memory.json")
    with server.client() as client:
        assert complete(client, "beta").status_code == 200
