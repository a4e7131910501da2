"""One function per client: a served model in, the client's settings out. The formats are the clients' own.

Where a client can read a file of its own, Bramley gets one, and nothing that the person has set is touched.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from server.cli.connect.connection import KEY_VARIABLE, NO_KEY, Connection, Served
from server.cli.connect.merging import merge_json, merge_list_of_models

# What a model may write in one answer, as a part of its context, for clients that want to know.
_ANSWER_PART = 4
# Tokens that coding agents send before the first question: Codex 9,000, opencode 8,000, Claude Code 20,000.
_AGENTS_CONTEXT = 32_768


def open_webui(served: Served, home: Path) -> Connection:
    """https://docs.openwebui.com/reference/env-configuration: read at the first start, then kept in its database."""
    del home
    inside = served.url.replace("127.0.0.1", "host.docker.internal")
    text = (
        f"OPENAI_API_BASE_URL={served.url} OPENAI_API_KEY={served.key or NO_KEY} open-webui serve --port 3000\n\n"
        "docker run -d -p 3000:8080 --add-host=host.docker.internal:host-gateway \\\n"
        f"  -e OPENAI_API_BASE_URL={inside} -e OPENAI_API_KEY={served.key or NO_KEY} \\\n"
        "  -v open-webui:/app/backend/data --name open-webui ghcr.io/open-webui/open-webui:main\n"
    )
    then = (
        "The first starts Open WebUI itself, the second its container; then open http://localhost:3000. Where it has "
        "run before, add the same URL and key in its Admin Panel under Settings, Connections, OpenAI API. A "
        "container on Linux reaches the server only where that listens beyond 127.0.0.1 (`--host 0.0.0.0`, with a key)."
    )
    return Connection(text, then, has_key=bool(served.key))


def continue_dev(served: Served, home: Path) -> Connection:
    """https://docs.continue.dev/reference: files in ~/.continue/models are blocks of every configuration."""
    roles = "[embed]" if served.embeds else "[chat, edit, apply]"
    lines = [
        "name: Bramley",
        "version: 0.0.1",
        "schema: v1",
        "models:",
        f"  - name: {_yaml(f'Bramley {served.model}')}",
        "    provider: openai",
        f"    model: {_yaml(served.model)}",
        f"    apiBase: {_yaml(served.url)}",
        f"    apiKey: {_yaml(served.key or NO_KEY)}",
        f"    roles: {roles}",
        "    defaultCompletionOptions:",
        f"      contextLength: {served.context_length}",
    ]
    then = "Continue reads it at once; choose the model in its list."
    return Connection(_text(lines), then, home / ".continue" / "models" / "bramley.yaml", has_key=bool(served.key))


def zed(served: Served, home: Path) -> Connection:
    """https://zed.dev/docs/ai/use-api-access#openai-compatible: keys belong into the keychain or a variable."""
    model = {
        "name": served.model,
        "display_name": f"Bramley {served.model}",
        "max_tokens": served.context_length,
        "capabilities": {"tools": True, "images": False, "parallel_tool_calls": False, "prompt_cache_key": False},
    }
    settings = {
        "language_models": {"openai_compatible": {"bramley": {"api_url": served.url, "available_models": [model]}}}
    }
    key = f"your API key as {KEY_VARIABLE}" if served.key else f"{KEY_VARIABLE}={NO_KEY}"
    then = (
        f"Zed wants a key: start it from a terminal with {key}, or enter it in the agent's settings, under LLM "
        "Providers, bramley."
    )
    return _json(settings, home / ".config" / "zed" / "settings.json", then)


def opencode(served: Served, home: Path) -> Connection:
    """https://opencode.ai/docs/providers: a custom provider of the OpenAI-compatible kind."""
    limit = {"context": served.context_length, "output": max(1, served.context_length // _ANSWER_PART)}
    provider: dict[str, Any] = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Bramley (local)",
        "options": {"baseURL": served.url} | ({"apiKey": f"{{env:{KEY_VARIABLE}}}"} if served.key else {}),
        "models": {served.model: {"name": served.model, "limit": limit}},
    }
    settings = {"$schema": "https://opencode.ai/config.json", "provider": {"bramley": provider}}
    then = f"opencode --model bramley/{served.model}"
    return _json(
        settings, home / ".config" / "opencode" / "opencode.json", _for_agents(_with_key(then, served), served)
    )


def claude_code(served: Served, home: Path) -> Connection:
    """https://code.claude.com/docs/en/env-vars: a settings file of its own, so that `claude` alone stays as it was."""
    tiers = {f"ANTHROPIC_DEFAULT_{tier}_MODEL": served.model for tier in ("OPUS", "SONNET", "HAIKU")}
    environment = {
        "ANTHROPIC_BASE_URL": served.root,
        "ANTHROPIC_AUTH_TOKEN": served.key or NO_KEY,
        **tiers,
        # Without it every prompt begins with a line that changes, and nothing of the last one can be used again.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    path = home / ".claude" / "bramley.json"
    text = json.dumps({"model": "sonnet", "env": environment}, indent=2) + "\n"
    then = _for_agents(f"claude --settings {path}", served)
    return Connection(text, then, path, has_key=bool(served.key))


def codex(served: Served, home: Path) -> Connection:
    """https://developers.openai.com/codex/config-advanced: a profile is a file of its own, from 0.134 on."""
    lines = [
        f"model = {json.dumps(served.model)}",
        'model_provider = "bramley"',
        f"model_context_window = {served.context_length}",
        "",
        "[model_providers.bramley]",
        'name = "Bramley"',
        f"base_url = {json.dumps(served.url)}",
        'wire_api = "responses"',
        *([f'env_key = "{KEY_VARIABLE}"'] if served.key else []),
    ]
    path = home / ".codex" / "bramley.config.toml"
    then = _for_agents(_with_key("codex --profile bramley", served), served)
    return Connection(_text(lines), then, path)


def aider(served: Served, home: Path) -> Connection:
    """https://aider.chat/docs/config/aider_conf.html: a configuration of its own."""
    lines = [
        f"model: {_yaml(f'openai/{served.model}')}",
        f"openai-api-base: {_yaml(served.url)}",
        f"openai-api-key: {_yaml(served.key or NO_KEY)}",
    ]
    path = home / ".aider.bramley.yml"
    return Connection(_text(lines), f"aider --config {path}", path, has_key=bool(served.key))


def llm(served: Served, home: Path) -> Connection:
    """https://llm.datasette.io/en/stable/other-models.html: an item of its list of further models."""
    del home
    name = f"bramley/{served.model}"
    lines = [
        f"- model_id: {_yaml(name)}",
        f"  model_name: {_yaml(served.model)}",
        f"  api_base: {_yaml(served.url)}",
        *(["  api_key_name: bramley"] if served.key else []),
    ]
    path = user_config_path("io.datasette.llm") / "extra-openai-models.yaml"
    then = f"llm -m {name} 'Good morning'"
    then = f"{then}   (once before: llm keys set bramley)" if served.key else then
    return Connection(_text(lines), then, path, partial(merge_list_of_models, name=name, item=_text(lines)))


def langchain(served: Served, home: Path) -> Connection:
    """https://docs.langchain.com/oss/python/integrations/chat/openai: langchain-openai with another address."""
    del home
    arguments = f'base_url="{served.url}", api_key="{served.key or NO_KEY}", model="{served.model}"'
    if served.embeds:
        lines = [
            "from langchain_openai import OpenAIEmbeddings",
            "",
            "# Its own cutting of texts sends ids of OpenAI's vocabulary, which mean something else here.",
            f"embeddings = OpenAIEmbeddings({arguments}, check_embedding_ctx_length=False)",
            'print(len(embeddings.embed_query("Good morning")))',
        ]
    else:
        lines = [
            "from langchain_openai import ChatOpenAI",
            "",
            f"model = ChatOpenAI({arguments}, stream_usage=True, max_tokens=500)",
            'print(model.invoke("What is the capital of France?").content)',
        ]
    return Connection(_text(lines), "pip install langchain-openai, and run it.", has_key=bool(served.key))


CLIENTS: Mapping[str, Callable[[Served, Path], Connection]] = {
    "open-webui": open_webui,
    "continue": continue_dev,
    "zed": zed,
    "opencode": opencode,
    "claude-code": claude_code,
    "codex": codex,
    "aider": aider,
    "llm": llm,
    "langchain": langchain,
}


def _json(settings: dict[str, Any], path: Path, then: str) -> Connection:
    return Connection(json.dumps(settings, indent=2) + "\n", then, path, partial(merge_json, settings=settings))


def _with_key(then: str, served: Served) -> str:
    return f"{KEY_VARIABLE}=YOUR_KEY {then}" if served.key else then


def _for_agents(then: str, served: Served) -> str:
    if served.context_length >= _AGENTS_CONTEXT:
        return then
    return (
        f"{then}\n{served.model} has a context of {served.context_length} tokens: coding agents fill 8,000 to 20,000 "
        f"with instructions alone, and want a model with {_AGENTS_CONTEXT} or more."
    )


def _yaml(text: str) -> str:
    """Text as YAML, of which JSON's strings are a part."""
    return json.dumps(text, ensure_ascii=False)


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
