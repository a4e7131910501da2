"""What clients are told of the engine they share, by a real worker over a tiny model: what is cached, who is first."""

import json
import random
import re
import threading
from pathlib import Path

import httpx
import pytest

REAL = Path(__file__).parents[1] / "real_serve.py"
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


@pytest.fixture(scope="module")
def model(spelled_model):
    path = spelled_model("llama", max_position_embeddings=65536)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


@pytest.fixture(scope="module")
def server(launch, model):
    return launch([REAL, "llama", model], max_rows=1, trust_priorities=True)


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client


def words(seed: int, count: int = 100) -> list[int]:
    """Token ids that no other seed's begin with."""
    return [10 + seed, *(random.Random(seed).randrange(10, 90) for _ in range(count - 1))]


def spelled(ids: list[int]) -> str:
    return " ".join(f"w{token_id}" for token_id in ids)


def ask(client, route: str, ids: list[int], **given) -> httpx.Response:
    prompt = {"messages": [{"role": "user", "content": spelled(ids)}]} if "chat" in route else {"prompt": ids}
    response = client.post(route, json={"max_tokens": 3, "temperature": 0, "ignore_eos": True, **prompt, **given})
    assert response.status_code == 200, response.text
    response.read()
    return response


def value(asked, name: str) -> float:
    """The sample of that name on /metrics, asked of a client or a server."""
    text = asked.get("/metrics").text if isinstance(asked, httpx.Client) else httpx.get(f"{asked.url}/metrics").text
    lines = text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


def log_with(server, text: str) -> str:
    """The log, once it holds the text."""
    return server.log if text in server.log else ""


def cached(response) -> int:
    return response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize(("route", "seed"), [("/v1/completions", 1), ("/v1/chat/completions", 2)])
def test_a_repeated_prompt_is_cached_and_another_is_not(client, route, seed):
    first = ask(client, route, words(seed))
    assert cached(first) == 0
    assert first.headers["x-bramley-prefix"].startswith("hit=0; differs-at=0; stored=")
    again = ask(client, route, words(seed))
    assert cached(again) == 99
    assert again.headers["x-bramley-prefix"] == "hit=99"
    assert again.json()["choices"] == first.json()["choices"]
    assert cached(ask(client, route, words(seed + 10))) == 0


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
def test_choices_of_one_prompt_count_it_once(client, route):
    ids = words(31 + len(route))
    assert cached(ask(client, route, ids, n=3)) == 0
    again = ask(client, route, ids, n=3)
    assert cached(again) == 99
    assert again.json()["usage"]["prompt_tokens"] == 100


def test_each_of_several_prompts_counts_for_itself(client):
    known, new = words(51), words(52)
    ask(client, "/v1/completions", known)
    response = client.post("/v1/completions", json={"prompt": [known, new, known[:80]], "max_tokens": 2})
    assert cached(response) == 99 + 0 + 79


@pytest.mark.parametrize("stream", [True, False])
def test_the_header_names_the_first_token_that_differs(client, stream):
    ids = words(61 + stream)
    ask(client, "/v1/completions", ids)
    changed = [*ids[:70], (ids[70] - 10 + 1) % 80 + 10, *ids[71:]]
    response = ask(client, "/v1/completions", changed, stream=stream)
    told = f"hit=70; differs-at=70; stored={ids[70]}; asked={changed[70]}"
    assert response.headers["x-bramley-prefix"] == told
    longer = ask(client, "/v1/chat/completions", [*ids, 9, 9, 9], stream=stream)
    hit = int(longer.headers["x-bramley-prefix"].partition(";")[0].removeprefix("hit="))
    assert hit >= 100  # the prompt, and of the answer what the next prompt shares with it by chance


def test_streamed_usage_tells_the_same(client):
    ids = words(71)
    ask(client, "/v1/completions", ids)
    response = ask(client, "/v1/completions", ids, stream=True, stream_options={"include_usage": True})
    *_, last, _ = [line for line in response.text.split("\n\n") if line]
    assert json.loads(last.removeprefix("data: "))["usage"]["prompt_tokens_details"]["cached_tokens"] == 99


def test_metrics_tell_of_hits_and_of_bytes(client, server):
    ids = words(75)
    ask(client, "/v1/completions", ids)
    server.wait_for(lambda: value(client, "vllm:num_requests_running") == 0)
    hits, queries = value(client, "vllm:prefix_cache_hits_total"), value(client, "vllm:prefix_cache_queries_total")
    ask(client, "/v1/completions", ids)
    server.wait_for(lambda: value(client, "vllm:prefix_cache_hits_total") == hits + 99, patience_seconds=0.9)
    assert value(client, "vllm:prefix_cache_queries_total") == queries + 100
    assert value(client, "bramley:prefix_cache_blocks") > 0
    assert value(client, "bramley:prefix_cache_bytes") > 0
    assert 0 <= value(client, "vllm:kv_cache_usage_perc") < 1


def order_of(server, **priorities: int) -> list[str]:
    """The order in which requests of these priorities are answered that have waited together."""

    def post(name: str, priority: int) -> None:
        route = "/v1/chat/completions" if priority < 0 else "/v1/completions"
        with server.client(headers={"x-request-id": name}) as own:
            ask(own, route, words(80), priority=priority)

    blocker = {"prompt": words(81), "max_tokens": -1, "ignore_eos": True, "stream": True}
    threads = []
    with server.client() as client, client.stream("POST", "/v1/completions", json=blocker) as response:
        lines = response.iter_lines()  # held: the stream would end with it
        next(lines)
        for waiting, (name, priority) in enumerate(priorities.items(), 1):
            threads.append(threading.Thread(target=post, args=(name, priority)))
            threads[-1].start()
            server.wait_for(lambda waiting=waiting: value(server, "vllm:num_requests_waiting") == waiting)
    for thread in threads:
        thread.join()
    last = list(priorities)[-1]
    server.wait_for(lambda: all(re.search(rf" {name} POST .* 200 ", server.log) for name in (*priorities, last)))
    return re.findall(rf" ({'|'.join(priorities)}) POST .* 200 ", server.log)


def test_the_lower_priority_comes_first_where_clients_are_trusted(server):
    assert order_of(server, usual=0, later=7, sooner=-7) == ["sooner", "usual", "later"]


def test_others_can_only_step_back(launch, model):
    server = launch([REAL, "llama", model], max_rows=1)
    assert order_of(server, later=7, usual=0, sooner=-7) == ["usual", "sooner", "later"]


@pytest.mark.parametrize("priority", [101, -101, 0.5, "high", True])
def test_a_priority_out_of_bounds_is_refused_by_name(client, priority):
    for route, prompt in (
        ("completions", {"prompt": "w9"}),
        ("chat/completions", {"messages": [{"role": "user", "content": "w9"}]}),
    ):
        response = client.post(f"/v1/{route}", json={**prompt, "priority": priority})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "priority")
