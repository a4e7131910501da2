"""What /metrics and the log tell of requests: true counts, under names that dashboards know."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

NAMES = """
num_requests_running num_requests_waiting kv_cache_usage_perc cache_config_info prompt_tokens_total
generation_tokens_total request_success_total num_preemptions_total prefix_cache_queries_total prefix_cache_hits_total
"""
TIMES = """
time_to_first_token inter_token_latency time_per_output_token request_time_per_output_token e2e_request_latency
request_queue_time request_prefill_time request_decode_time request_inference_time
"""
COUNTS = "request_prompt_tokens request_generation_tokens request_params_n request_params_max_tokens"


@pytest.fixture(scope="module")
def server(start_fake):
    return start_fake(names=("watched", "idle"))


def samples(server, model: str = "watched") -> dict[tuple[str, ...], float]:
    """A model's values, by name without `vllm:` and by the values of labels besides model and engine."""
    response = httpx.get(f"{server.url}/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("engine") == "0"
            if labels.pop("model_name") == model:
                found[sample.name.removeprefix("vllm:"), *labels.values()] = sample.value
    return found


@contextmanager
def counted(server) -> Iterator[dict[tuple[str, ...], float]]:
    """What is counted meanwhile; filled at the end."""
    before, difference = samples(server), {}
    yield difference
    difference |= {key: value - before[key] for key, value in samples(server).items()}


def test_all_names_are_there_before_the_first_request(server):
    found = samples(server, "idle")
    buckets = {f"{name}_seconds_bucket" for name in TIMES.split()} | {f"{name}_bucket" for name in COUNTS.split()}
    assert buckets | set(NAMES.split()) <= {name for name, *_ in found}
    assert not any(value for (name, *_), value in found.items() if name.endswith(("_total", "_count")))


def test_tokens_times_and_ends_are_counted_once(server):
    with server.client() as client, counted(server) as found:
        whole = client.post("/v1/completions", json=server.script(say="abcde", delay_seconds=0.03) | {"n": 2})
        client.post("/v1/completions", json={"prompt": "long", "max_tokens": 3, "stream": True})
    usage = whole.json()["usage"]
    assert found["generation_tokens_total",] == usage["completion_tokens"] + 3
    assert found["prompt_tokens_total",] == 2 * usage["prompt_tokens"] + len("<long")
    assert found["request_success_total", "stop"] == 2
    assert found["request_success_total", "length"] == 1
    assert found["request_success_total", "abort"] == 0
    assert found["time_to_first_token_seconds_count",] == found["e2e_request_latency_seconds_count",] == 3
    assert found["inter_token_latency_seconds_count",] == 2 * 5 + 2
    assert found["inter_token_latency_seconds_bucket", "0.025"] == 2  # the request without pauses
    assert 0.3 <= found["inter_token_latency_seconds_sum",] < 1
    assert found["request_decode_time_seconds_sum",] == pytest.approx(found["inter_token_latency_seconds_sum",])
    assert found["request_params_n_sum",] == 3
    assert found["request_generation_tokens_sum",] == 15


def test_a_stop_string_ends_with_stop_a_client_that_leaves_with_abort_a_failure_with_error(server):
    endless = server.script(say="on and on ", delay_seconds=0.01) | {"ignore_eos": True, "stream": True}
    aborted = samples(server)["request_success_total", "abort"]
    with server.client() as client, counted(server) as found:
        client.post("/v1/completions", json=server.script(say="abc.def") | {"stop": "."})
        with client.stream("POST", "/v1/completions", json=endless) as response:
            next(response.iter_lines())
        client.post("/v1/completions", json=server.script(say="abc", fail_after=1))
        server.wait_for(lambda: samples(server)["request_success_total", "abort"] > aborted)
    ends = {labels[0]: value for (name, *labels), value in found.items() if name == "request_success_total"}
    assert ends == {"stop": 1, "length": 0, "abort": 1, "error": 1}


def test_what_runs_is_told_by_the_worker_and_forgotten_when_it_dies(server):
    with server.client() as client:
        endless = server.script(say="on and on ", delay_seconds=0.01) | {"ignore_eos": True, "stream": True}
        with client.stream("POST", "/v1/completions", json=endless):
            server.wait_for(lambda: samples(server)["num_requests_running",] == 1)
            server.worker().kill()
            server.wait_for(lambda: samples(server)["num_requests_running",] == 0)


def test_metrics_answer_with_v1_by_head_and_to_local_hosts_alone(server):
    with server.client() as client:
        assert client.get("/v1/metrics").status_code == client.head("/metrics").status_code == 200
        assert client.get("/metrics", headers={"host": "evil.com"}).status_code == 403


def test_the_log_line_tells_the_first_token_and_the_speed(server):
    server.say(say="abcdefghi", delay_seconds=0.02, first_seconds=0.1)
    line = server.wait_for(lambda: next((each for each in server.log.splitlines() if "completion=10" in each), None))
    assert 100 <= int(re.search(r" ttft_ms=(\d+)", line)[1]) < 1000
    assert 10 < float(re.search(r" tok_s=([\d.]+)", line)[1]) < 51
    with server.client() as client:
        client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
        client.post("/v1/completions", json={"prompt": "x", "max_tokens": 0})
    lines = server.wait_for(lambda: (found := server.log.splitlines()[-2:])[-1].endswith("cached=0") and found)
    assert "ttft_ms=" in lines[0]
    assert "tok_s=" not in lines[0]
    assert "ttft_ms=" not in lines[1]


@pytest.mark.parametrize("stream", [True, False])
def test_the_header_tells_where_a_prompt_differs(server, stream):
    def header(**keys) -> str | None:
        with server.client() as client:
            response = client.post("/v1/completions", json=server.script(say="x", **keys) | {"stream": stream})
        return response.headers.get("x-bramley-prefix")

    assert header(prefix=[640, 17, 42]) == "hit=640; differs-at=640; stored=17; asked=42"
    assert header(prefix=[640, None, 42]) == "hit=640; differs-at=640; stored=none; asked=42"
    assert header(prefix=[640, None, None]) == "hit=640"
    assert header() is None


def test_with_keys_nobody_is_told_what_others_have_asked(start_fake):
    server = start_fake(api_keys="one,two")
    body = server.script(say="x", prefix=[640, 17, 42])
    with server.client(headers={"x-api-key": "one"}) as client:
        response = client.post("/v1/completions", json=body)
    assert response.headers["x-bramley-prefix"] == "hit=640; differs-at=640; asked=42"
