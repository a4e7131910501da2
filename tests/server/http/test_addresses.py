"""Every address that clients were seen to use reaches its route."""

import pytest

from server.http.dialects import canonical


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", "/chat/completions"),
        ("/chat/completions", "/chat/completions"),
        ("/v1/chat/completions/", "/chat/completions"),
        ("//v1//chat/completions", "/chat/completions"),
        ("/v1/v1/chat/completions", "/chat/completions"),
        ("/v1/chat/completions/chat/completions", "/chat/completions"),
        ("/v1/completions/completions", "/completions"),
        ("/v1/chat/completions/models", "/models"),
        ("/v1/chat/completions/v1/models/org/name", "/models/org/name"),
        ("/v1/chat/completions/embeddings", "/embeddings"),
        ("/v1/messages/v1/messages", "/messages"),
        ("/v1/messages/count_tokens", "/messages/count_tokens"),
        ("/v1/models/org/name", "/models/org/name"),
        ("/v1/models/v1/models", "/models/v1/models"),
        ("/v1x/models", "/v1x/models"),
        ("/health", "/health"),
        ("/v1", "/"),
        ("/v1/", "/"),
        ("/", "/"),
    ],
)
def test_paths_have_one_canonical_form(path, expected):
    assert canonical(path) == expected


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/health", "/version", "/v1/models", "/models", "/v1/models/", "/v1"])
def test_information_is_there_for_get_and_head(client, method, path):
    response = client.request(method, path)
    assert response.status_code == 200
    assert response.headers["x-request-id"]
    assert bool(response.content) == (method == "GET")


@pytest.mark.parametrize("path", ["/v1/completions", "/completions", "/v1/v1/completions/", "//v1/completions?x=1"])
def test_completions_answer_under_every_spelling(client, path):
    assert client.post(f"{client.base_url}{path}", json={"prompt": "hi"}).status_code == 200


@pytest.mark.parametrize("name", ["org%2Ffake", "org/fake", "an-alias"])
def test_a_model_is_found_with_its_slash_raw_or_encoded(client, name):
    assert client.get(f"/v1/models/{name}").json()["id"] == "org/fake"


def test_models_are_listed_with_the_default_first(client):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["org/fake", "second"]
    assert all(model["object"] == "model" and model["created"] > 0 for model in listed["data"])


def test_an_unknown_route_and_a_wrong_method_are_json(client):
    for response, status in ((client.get("/v1/nothing"), 404), (client.get("/v1/chat/completions"), 405)):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert client.delete("/v1/models/second").status_code == 405


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "nonsense", None])
def test_the_body_is_json_whatever_it_is_called(client, content_type):
    headers = {"content-type": content_type} if content_type else {}
    response = client.post("/v1/completions", content=b'\xef\xbb\xbf{"prompt": "hi"}', headers=headers)
    assert response.json()["choices"][0]["text"] == "You said: hi"


def test_a_sane_request_id_is_echoed_and_another_replaced(client):
    assert client.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/health", headers={"x-request-id": "a b\x1b[31m"}).headers["x-request-id"].startswith("req_")
