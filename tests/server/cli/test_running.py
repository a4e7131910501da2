"""`bramley ps` and `stop`: what a running server says of itself, and models that give their memory back."""

import json

import pytest


def model(name, state="ready", **more):
    return {
        "id": name,
        "state": state,
        "reason": "",
        "pinned": False,
        "context_length": 8192,
        "done_bytes": 0,
        "total_bytes": 0,
        "unload_in_seconds": None,
        "memory": {"resident_bytes": 250_000_000},
        "requests": {"running": 2, "queued": 0, "waiting": 1},
    } | more


@pytest.fixture
def status(stub_server):
    """What the server says of itself."""
    memory = {"resident_bytes": 1, "reserved_bytes": 2, "budget_bytes": 3, "available_bytes": 4}
    models = [
        model("one", unload_in_seconds=250.2),
        model("org/two", "loading", done_bytes=1, total_bytes=4, pinned=True),
        model("three", "unloaded"),
    ]
    stub_server.status_page = {"models": models, "memory": memory}
    return stub_server.status_page


def test_models_in_memory_are_lines_in_a_pipe(bramley, status):
    lines = [line.split("\t") for line in bramley("ps").stdout.splitlines()]
    assert lines == [
        ["one", "ready", "250.0 MB", "2 running, 1 waiting", "8192", "in 4:10 min"],
        ["org/two", "loading, 25 %", "250.0 MB", "2 running, 1 waiting", "8192", "never"],
    ]
    assert len(bramley("ps", "--all").stdout.splitlines()) == 3


def test_status_as_json_is_the_servers_own(bramley, status):
    assert json.loads(bramley("ps", "--json").stdout) == status


def test_without_a_server_that_is_said(bramley):
    for arguments in (["ps"], ["stop", "one"]):
        result = bramley(*arguments)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == ("bramley: No server answers at http://127.0.0.1:9/v1: `bramley serve` starts one.\n")


def test_a_model_is_unloaded_by_name_or_all_are(bramley, status, stub_server):
    assert bramley("stop", "org/two").stdout == "org/two is unloaded.\n"
    assert bramley("stop", "--all").stdout == "one is unloaded.\norg/two is unloaded.\n"
    assert stub_server.unloaded == ["org%2Ftwo", "one", "org%2Ftwo"]


def test_stop_wants_a_model_or_all(bramley, status):
    assert bramley("stop").returncode == 2
    assert bramley("stop", "one", "--all").returncode == 2


def test_refusal_of_the_server_is_told(bramley, status, stub_server):
    stub_server.status = 409
    result = bramley("stop", "one")
    assert result.returncode == 1
    assert result.stderr == "bramley: The queue is full.\n"
