"""`bramley connect`: settings that each client can read, and files that keep what was in them."""

import ast
import json
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from server.cli.connect.clients import CLIENTS
from server.cli.connect.connection import Served
from server.cli.connect.writing import write
from server.store.pull import pull
from server.store.store import Store

FIXTURES = Path(__file__).parents[2] / "engine" / "architectures" / "fixtures"
URL = "http://127.0.0.1:9/v1"
FILES = {
    "continue": ".continue/models/bramley.yaml",
    "zed": ".config/zed/settings.json",
    "opencode": ".config/opencode/opencode.json",
    "claude-code": ".claude/bramley.json",
    "codex": ".codex/bramley.config.toml",
    "aider": ".aider.bramley.yml",
}


SERVED = Served("http://127.0.0.1:9", "llama", 128)
HOME = Path("/home/somebody")


@pytest.fixture
def connect(bramley, environment, tmp_path):
    """Run connect in a home of its own, with one stored model of 128 tokens of context."""
    environment |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config"), "BRAMLEY_MODELS": "llama"}
    pull(str(FIXTURES / "llama"), Store(Path(environment["BRAMLEY_MODELS_DIR"])), lambda _: None)

    def run(*arguments, **variables):
        return bramley("connect", *arguments, **variables)

    return run


def pieces(client, text):  # noqa: PLR0911  # one per client
    """What a client would read out of its settings: address, model and, where it has one, context length."""
    if client == "open-webui":
        words = dict(word.split("=", 1) for word in shlex.split(text.splitlines()[0]) if "=" in word)
        return words["OPENAI_API_BASE_URL"], "llama", None
    if client == "continue":
        (model,) = yaml.safe_load(text)["models"]
        return model["apiBase"], model["model"], model["defaultCompletionOptions"]["contextLength"]
    if client == "zed":
        provider = json.loads(text)["language_models"]["openai_compatible"]["bramley"]
        return (
            provider["api_url"],
            provider["available_models"][0]["name"],
            provider["available_models"][0]["max_tokens"],
        )
    if client == "opencode":
        provider = json.loads(text)["provider"]["bramley"]
        ((name, model),) = provider["models"].items()
        return provider["options"]["baseURL"], name, model["limit"]["context"]
    if client == "claude-code":
        environment = json.loads(text)["env"]
        return environment["ANTHROPIC_BASE_URL"] + "/v1", environment["ANTHROPIC_DEFAULT_SONNET_MODEL"], None
    if client == "codex":
        content = tomllib.loads(text)
        provider = content["model_providers"][content["model_provider"]]
        assert provider["wire_api"] == "responses"
        return provider["base_url"], content["model"], content["model_context_window"]
    if client == "aider":
        content = yaml.safe_load(text)
        return content["openai-api-base"], content["model"].removeprefix("openai/"), None
    if client == "llm":
        (model,) = yaml.safe_load(text)
        return model["api_base"], model["model_name"], None
    (call,) = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and node.keywords]
    words = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
    return words["base_url"], words["model"], None


@pytest.mark.parametrize("client", CLIENTS)
def test_settings_name_the_address_the_model_and_its_context(client):
    url, model, context_length = pieces(client, CLIENTS[client](SERVED, HOME).text)
    assert (url, model) == (URL, "llama")
    assert context_length in (None, 128)


@pytest.mark.parametrize("client", FILES)
def test_a_file_is_where_its_client_looks(client):
    connection = CLIENTS[client](SERVED, HOME)
    assert connection.path == HOME / FILES[client]
    if connection.merge is not None:
        assert connection.merge("") == connection.text


@pytest.mark.parametrize("client", CLIENTS)
def test_files_that_hold_a_key_are_private(client, tmp_path):
    connection = CLIENTS[client](replace(SERVED, key="sesame"), tmp_path)
    assert connection.has_key == ("sesame" in connection.text)
    if client in FILES:
        path, _ = write(connection)
        assert (path.stat().st_mode & 0o077 == 0) == connection.has_key


def test_what_is_written_is_what_was_shown_but_for_the_key(connect, tmp_path):
    shown = connect("claude-code", BRAMLEY_API_KEYS="sesame")
    written = connect("claude-code", "--write", BRAMLEY_API_KEYS="sesame")
    assert written.returncode == 0, written.stderr
    assert "sesame" not in shown.stdout + shown.stderr + written.stdout + written.stderr
    content = (tmp_path / FILES["claude-code"]).read_text()
    assert content == shown.stdout.replace("YOUR_KEY", "sesame")
    assert pieces("claude-code", content)[:2] == (URL, "llama")


def test_too_short_a_context_for_an_agent_is_said():
    assert "context of 128 tokens" in CLIENTS["codex"](SERVED, HOME).then
    assert "context" not in CLIENTS["codex"](replace(SERVED, context_length=65536), HOME).then


def test_what_stands_in_the_file_is_kept_there_and_beside_it(connect, tmp_path):
    path = tmp_path / FILES["zed"]
    path.parent.mkdir(parents=True)
    mine = {"name": "mine", "max_tokens": 1}
    before = {
        "theme": "One Dark",
        "language_models": {"openai_compatible": {"bramley": {"available_models": [mine, {"name": "llama"}]}}},
    }
    path.write_text(json.dumps(before))
    path.chmod(0o640)
    assert connect("zed", "--write").returncode == 0
    after = json.loads(path.read_text())
    assert after["theme"] == "One Dark"
    models = after["language_models"]["openai_compatible"]["bramley"]["available_models"]
    assert [(model["name"], model["max_tokens"]) for model in models] == [("mine", 1), ("llama", 128)]
    (copy,) = path.parent.glob("*.bak")
    assert json.loads(copy.read_text()) == before
    assert path.stat().st_mode & 0o777 == 0o640
    assert connect("zed", "--write").returncode == 0
    assert len(list(path.parent.glob("*.bak"))) == 1


def test_comments_are_not_lost(connect, tmp_path):
    path = tmp_path / FILES["zed"]
    path.parent.mkdir(parents=True)
    path.write_text("// mine\n{}\n")
    result = connect("zed", "--write")
    assert result.returncode == 1
    assert "by hand" in result.stderr
    assert path.read_text() == "// mine\n{}\n"


def test_item_of_a_list_is_added_once_and_replaced(connect, environment):
    connect("llm", "--write")
    (path,) = Path(environment["HOME"]).rglob("extra-openai-models.yaml")
    path.write_text("# mine\n- model_id: other\n  model_name: other\n" + path.read_text().replace(":9/", ":7/"))
    assert connect("llm", "--write").returncode == 0
    assert path.read_text().startswith("# mine\n")
    models = yaml.safe_load(path.read_text())
    assert [model["model_id"] for model in models] == ["other", "bramley/llama"]
    assert models[1]["api_base"] == URL


def test_a_client_without_a_file_is_not_written(connect):
    result = connect("langchain", "--write")
    assert result.returncode == 1
    assert "no settings file" in result.stderr


def test_clients_are_listed_and_a_misspelt_one_is_recognised(connect):
    assert connect().stdout.split() == json.loads(connect("--json").stdout) == list(CLIENTS)
    assert json.loads(connect("zed", "--json").stdout)["text"] == connect("zed").stdout
    result = connect("Claude Kode")
    assert result.returncode == 2
    assert "claude-code" in result.stderr


def test_a_model_that_embeds_is_connected_as_one():
    served = replace(SERVED, embeds=True)
    assert "OpenAIEmbeddings" in CLIENTS["langchain"](served, HOME).text
    assert "roles: [embed]" in CLIENTS["continue"](served, HOME).text


def test_a_running_server_is_asked_for_its_model_and_context(connect, stub_server):
    url, model, context_length = pieces("zed", connect("zed").stdout)
    assert (url, model, context_length) == (f"http://127.0.0.1:{stub_server.port}/v1", "stub", 128)


def test_an_unknown_model_is_refused(connect):
    result = connect("zed", "--model", "lama")
    assert result.returncode == 1
    assert "nearest names are llama" in result.stderr
