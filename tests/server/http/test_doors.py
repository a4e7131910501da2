"""Who may come in: Host, Origin, keys, sizes. The routes are asked of the application itself."""

import socket

import httpx
import pytest

EVERYWHERE = "0.0.0.0"  # noqa: S104  # the tests ask what happens
FOREIGN_HOSTS = [
    "evil.com",
    "127.0.0.1.evil.com",
    "localhost.evil.com",
    "evil.com:8080",
    "localhost@evil.com",
    "localhost/health?x=",
    "127.0.0.2.nip.io",
    "[::2]",
    "[::1].evil.com",
    "[::1]evil.com:80",
    "localhost:port",
    EVERYWHERE,
]
LOCAL_HOSTS = ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "host.docker.internal:8080"]
FOREIGN_ORIGINS = [
    "https://evil.com",
    "http://localhost.evil.com",
    "null",
    "http://[::1].evil.com",
    "http://localhost@evil.com",
    "file://x",
]
LOCAL_ORIGINS = ["http://localhost:3000", "https://localhost", "http://127.0.0.1:8080", "http://[::1]:5173"]


def routes(client: httpx.Client, **headers: str) -> list[tuple[str, str]]:
    paths = client.get("/openapi.json", headers=headers).json()["paths"]
    found = [(method.upper(), path.replace("{name}", "x")) for path in paths for method in paths[path]]
    assert ("POST", "/chat/completions") in found
    return found + [("HEAD", path) for method, path in found if method == "GET"]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_foreign_host_is_refused_on_every_route(client, host):
    for method, path in routes(client):
        response = client.request(method, path, headers={"host": host})
        assert response.status_code in (400, 403)
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("host", LOCAL_HOSTS)
def test_a_local_host_passes(client, host):
    assert client.get("/v1/models", headers={"host": host}).status_code == 200


def test_a_configured_host_passes(start_fake):
    server = start_fake(allowed_hosts="box.lan, other")
    with server.client() as client:
        assert client.get("/v1/models", headers={"host": "box.lan:8080"}).status_code == 200
        assert client.get("/v1/models", headers={"host": "evil.com"}).status_code == 403


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_page_of_another_site_can_neither_post_nor_read(client, origin):
    for method, path in routes(client):
        response = client.request(method, path, headers={"origin": origin})
        assert method in ("GET", "HEAD") or response.status_code == 403
        assert "access-control-allow-origin" not in response.headers
    simple = {"origin": origin, "content-type": "text/plain"}
    assert client.post("/v1/completions", content='{"prompt": "hi"}', headers=simple).status_code == 403
    assert client.options("/v1/models", headers=simple).status_code == 403


@pytest.mark.parametrize("origin", LOCAL_ORIGINS)
def test_a_local_page_gets_its_headers_also_on_errors(client, origin):
    for path in ("/v1/models", "/v1/nothing"):
        response = client.get(path, headers={"origin": origin})
        assert response.headers["access-control-allow-origin"] == origin
        assert "x-request-id" in response.headers["access-control-expose-headers"]
        assert response.headers["vary"] == "Origin"


def test_a_preflight_is_answered_before_the_key_is_asked_for(start_fake):
    server = start_fake(api_keys="secret")
    wanted = "authorization, content-type, x-stainless-lang, x-stainless-retry-count"
    headers = {
        "origin": "http://localhost:3000",
        "access-control-request-method": "POST",
        "access-control-request-headers": wanted,
        "access-control-request-private-network": "true",
    }
    with server.client() as client:
        response = client.options("/v1/chat/completions", headers=headers)
    assert response.status_code == 204
    assert response.headers["access-control-allow-headers"] == wanted
    assert response.headers["access-control-allow-private-network"] == "true"
    assert "POST" in response.headers["access-control-allow-methods"]


def test_a_configured_origin_passes(start_fake):
    server = start_fake(allowed_origins="app://obsidian.md,https://chat.lan")
    with server.client() as client:
        for origin in ("app://obsidian.md", "https://chat.lan"):
            response = client.post("/v1/completions", json={"prompt": "hi"}, headers={"origin": origin})
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == origin


def test_every_route_but_health_and_metrics_asks_for_the_key(start_fake, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("from-file\n")
    server = start_fake(api_keys="key-one,key-two", api_keys_file=keys)
    wrong = [
        {},
        {"authorization": "Bearer key-on"},
        {"authorization": "Bearer key-onee"},
        {"authorization": "Bearer"},
        {"authorization": "Basic key-one"},
        {"authorization": "key-one"},
        {"x-api-key": "KEY-ONE"},
        {"x-api-key": b"\xff\xfe"},
    ]
    with server.client() as client:
        for method, path in routes(client, authorization="Bearer key-one"):
            for headers in wrong:
                response = client.request(method, path, headers=headers)
                assert (response.status_code == 200) == (path in ("/health", "/metrics"))
                if path not in ("/health", "/metrics"):
                    assert response.status_code == 401
                    assert response.headers["www-authenticate"] == "Bearer"
                    if method != "HEAD":
                        error = response.json()["error"]
                        assert (error.get("code") or error["details"]["error_code"]) == "invalid_api_key"
        right = [{"authorization": "bearer key-two"}, {"x-api-key": "key-one"}, {"api-key": "from-file"}]
        assert [client.get("/v1/models", headers=headers).status_code for headers in right] == [200, 200, 200]
    assert "key-one" not in server.log


@pytest.mark.parametrize("value", ["Bearer ", "", "Bearer null", "Bearer dummy", "Basic eDp5", "nonsense"])
def test_without_keys_any_authorization_passes(fake, value):
    with fake.connect() as connection:
        connection.sendall(f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: {value}\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_public_address_without_a_key_is_refused(start_fake):
    server = start_fake(wait=False, host=EVERYWHERE)
    assert server.process.wait(10) == 2
    server.wait_for(lambda: "no API key is set" in "".join(server.lines))


@pytest.mark.parametrize("settings", [{"allow_insecure": "1"}, {"api_keys": "secret"}])
def test_a_public_address_is_served_with_a_key_or_on_demand(start_fake, settings):
    server = start_fake(host=EVERYWHERE, **settings)
    with server.client() as client:
        assert client.get("/health").status_code == 200


def test_a_busy_port_is_one_line_and_its_own_exit_code(start_fake):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = start_fake(wait=False, port=taken.getsockname()[1])
        assert server.process.wait(10) == 5
    server.wait_for(lambda: server.lines)
    assert len(server.lines) == 1
    assert "in use" in server.lines[0]


def test_a_body_over_the_limit_is_refused_declared_or_not(start_fake):
    server = start_fake(max_body_bytes=2000)
    with server.client() as client:
        declared = client.post("/v1/completions", json={"prompt": "x" * 2000})
        assert (declared.status_code, declared.json()["error"]["code"]) == (413, "request_too_large")
        pieces = (b'{"prompt": "' + b"x" * 3000 + b'"}' for _ in range(1))
        chunked = client.post("/v1/completions", content=pieces)
        assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "request_too_large")
        assert client.post("/v1/completions", json={"prompt": "x" * 1000}).status_code == 200


def test_headers_over_the_limit_are_refused(fake):
    with fake.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json")
    with fake.client() as client:
        assert client.get("/health").status_code == 200


def test_curl_may_wait_for_a_hundred(fake):
    body = b'{"prompt": "hi"}'
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 16\r\n\r\n"
    with fake.connect() as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
