"""What /v1/models/{id} says of a model is what its requests find."""

from pathlib import Path

import pytest

from server.api.chat.schemas import ChatCompletionRequest
from server.api.completions.schemas import CompletionRequest

REAL = Path(__file__).parents[2] / "real_serve.py"
FILL_IN = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]


@pytest.fixture(scope="module")
def filler(start_fake):
    server = start_fake(load={"markers": [*FILL_IN, "</think>"], "template": "{{ tools }} <think>"})
    with server.client() as client:
        yield client


def card_of(client, name="org/fake"):
    client.post("/v1/completions", json={"prompt": "hi", "model": name})  # loads it
    return client.get(f"/v1/models/{name}").json()


def test_a_model_s_abilities_are_told(client, filler):
    card = card_of(client)
    assert card["context_length"] == card["max_model_len"] == 4096
    yes = {name for name, able in card["capabilities"].items() if able}
    assert yes == {"completion", "chat", "tools", "prompt_scores"}
    assert {name for name, able in card_of(filler)["capabilities"].items() if able} == yes | {"fim", "reasoning"}
    listed = client.get("/v1/models").json()["data"][0]
    assert listed == {name: card[name] for name in card if name not in {"parameters", "modalities", "left_out"}}


def test_parameters_are_those_of_the_schemas_that_this_model_honours(client, filler):
    fewer, all_of_them = card_of(client)["parameters"], card_of(filler)["parameters"]
    writing = ("completions", "chat/completions", "responses", "messages", "decisions")
    assert set(fewer) == {f"/v1/{name}" for name in writing}
    assert set(all_of_them["/v1/completions"]) == set(CompletionRequest.model_fields) - set(CompletionRequest.refused)
    chat = set(ChatCompletionRequest.model_fields) - set(ChatCompletionRequest.refused)
    assert set(fewer["/v1/chat/completions"]) == chat
    assert set(all_of_them["/v1/completions"]) - set(fewer["/v1/completions"]) == {"suffix"}
    refused = client.post("/v1/completions", json={"prompt": "a", "suffix": "z"})
    assert refused.json()["error"]["code"] == "unsupported_parameter"


def test_a_model_that_is_not_loaded_says_so(start_fake):
    server = start_fake(load={"seconds": 5})
    with server.client() as client:
        card = client.get("/v1/models/org/fake").json()
        assert (card["context_length"], card["capabilities"], card["parameters"]) == (None, None, None)


def test_an_embedder_s_card_names_its_route(launch, embedding_model):
    server = launch([REAL, "all-minilm-l6-v2", embedding_model])
    with server.client() as client:
        client.post("/v1/embeddings", json={"input": "x"})
        card = client.get("/v1/models/all-minilm-l6-v2").json()
    assert {name for name, able in card["capabilities"].items() if able} == {"embeddings"}
    assert list(card["parameters"]) == ["/v1/embeddings"]
    assert "dimensions" not in card["parameters"]["/v1/embeddings"]


def test_a_model_that_also_sees_is_served_for_text_and_says_what_is_left_out(launch, readable):
    server = launch([REAL, "org/seeing", readable("qwen3-5-wrapper")])
    with server.client() as client:
        answer = client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 3, "ignore_eos": True})
        assert answer.json()["usage"]["completion_tokens"] == 3
        card = client.get("/v1/models/org/seeing").json()
    assert card["modalities"] == ["text"]
    assert card["left_out"] == {"vision": 21, "multi-token prediction": 15}
    assert server.log.count("loaded for text alone") == 1
