"""Every field of the official client's request types: honoured, accepted without any effect, or refused by name.

A field that the installed package knows and the table does not, fails; so does a claim that the server does not keep.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from tokenizers import Tokenizer, models, pre_tokenizers

REAL = Path(__file__).parents[1] / "real_serve.py"
FIXTURES = Path(__file__).parents[2] / "engine" / "architectures" / "fixtures"
FILL_IN = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
SHOW_SAMPLING = json.dumps({"say_sampling": True})
CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
TWO_CALLS = json.dumps({"say": CALL + CALL})
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
FLAT_TOOL = {"type": "function", **FUNCTION}


@dataclass
class Seen:
    """An answer, and the client that may ask further."""

    response: httpx.Response
    client: httpx.Client

    @property
    def json(self) -> Any:
        return self.response.json()

    @property
    def events(self) -> list[dict]:
        lines = [line.removeprefix("data: ") for line in self.response.text.splitlines() if line.startswith("data: {")]
        return [json.loads(line) for line in lines]

    @property
    def choice(self) -> dict:
        return self.json["choices"][0]

    @property
    def text(self) -> str:
        answer = self.json
        if "output" in answer:
            return "".join(part["text"] for item in answer["output"] for part in item.get("content", ()))
        return answer["choices"][0].get("text") or answer["choices"][0].get("message", {}).get("content") or ""

    @property
    def said(self) -> dict:
        """What the scripted worker or template was given, which it said as JSON."""
        return json.loads(self.text)


@dataclass
class Honoured:
    """A value that changes the answer: the question's reply is true with it and false without."""

    value: Any
    question: Callable[[Seen], Any]
    beside: dict = field(default_factory=dict)


@dataclass
class Harmless:
    """Values that ask for nothing that changes an answer here: it is the same with them."""

    value: Any
    beside: dict = field(default_factory=dict)


@dataclass
class Refused:
    """A value that cannot be honoured: a 400 that names the field."""

    value: Any
    beside: dict = field(default_factory=dict)


def sampled(name: str, value: Any, sent: Any = ...) -> Honoured:
    """A field that reaches the engine as it is."""
    return Honoured(value if sent is ... else sent, lambda seen: seen.said[name] == value)


def chat(content: str, **keys) -> dict:
    return {"messages": [{"role": "user", "content": content}], **keys}


COMPLETIONS = {
    "best_of": Honoured(3, lambda seen: seen.json["usage"]["completion_tokens"] == 3 * 4, {"max_tokens": 4}),
    "echo": Honoured(True, lambda seen: seen.text.startswith("hi"), {"prompt": "hi"}),
    "frequency_penalty": sampled("frequency_penalty", 0.5),
    "logit_bias": sampled("logit_bias", [[65, 5.0]], {"65": 5}),
    "logprobs": Honoured(
        2, lambda seen: seen.choice["logprobs"] and len(seen.choice["logprobs"]["top_logprobs"][0]) == 2
    ),
    "max_tokens": Honoured(3, lambda seen: seen.json["usage"]["completion_tokens"] == 3),
    "model": Honoured("second", lambda seen: seen.json["model"] == "second"),
    "n": Honoured(2, lambda seen: len(seen.json["choices"]) == 2),
    "presence_penalty": sampled("presence_penalty", -1.5),
    "prompt": Honoured([104, 105], lambda seen: seen.text == "You said: hi"),
    "seed": sampled("seed", 7),
    "stop": Honoured([" said"], lambda seen: seen.text == "You", {"prompt": "hi"}),
    "stream": Honoured(True, lambda seen: seen.response.headers["content-type"].startswith("text/event-stream")),
    "stream_options": Honoured({"include_usage": True}, lambda seen: "usage" in seen.events[-1], {"stream": True}),
    "suffix": Honoured("z", lambda seen: seen.text == "You said: az", {"prompt": "a"}),
    "temperature": sampled("temperature", 0.25),
    "top_p": sampled("top_p", 0.5),
    "user": Harmless("somebody"),
}

CHAT = {
    "audio": Harmless({"format": "wav", "voice": "alloy"}),
    "frequency_penalty": sampled("frequency_penalty", 0.5),
    "function_call": Honoured("none", lambda seen: "tools" not in seen.said, chat("show", functions=[FUNCTION])),
    "functions": Honoured([FUNCTION], lambda seen: "tools" in seen.said, chat("show")),
    "logit_bias": sampled("logit_bias", [[65, 5.0]], {"65": 5}),
    "logprobs": Honoured(True, lambda seen: seen.choice["logprobs"]),
    "max_completion_tokens": Honoured(3, lambda seen: seen.json["usage"]["completion_tokens"] == 3),
    "max_tokens": Honoured(3, lambda seen: seen.json["usage"]["completion_tokens"] == 3),
    "messages": Honoured(chat("hi")["messages"], lambda seen: seen.text == "You said: hi"),
    "metadata": Harmless({"a": "b"}),
    "modalities": Refused(["text", "audio"]),
    "model": Honoured("second", lambda seen: seen.json["model"] == "second"),
    "moderation": Harmless({"model": "omni-moderation-latest"}),
    "n": Honoured(2, lambda seen: len(seen.json["choices"]) == 2),
    "parallel_tool_calls": Honoured(
        False, lambda seen: len(seen.choice["message"]["tool_calls"]) == 1, chat(TWO_CALLS, tools=[TOOL])
    ),
    "prediction": Harmless({"type": "content", "content": "a guess"}),
    "presence_penalty": sampled("presence_penalty", -1.5),
    "prompt_cache_key": Harmless("a key"),
    "prompt_cache_options": Harmless({"mode": "explicit"}),
    "prompt_cache_retention": Harmless("24h"),
    "reasoning_effort": Honoured("high", lambda seen: seen.said["variables"].get("reasoning_effort"), chat("show")),
    "response_format": Honoured({"type": "json_object"}, lambda seen: seen.said["grammar"]),
    "safety_identifier": Harmless("somebody"),
    "seed": sampled("seed", 7),
    "service_tier": Harmless("flex"),
    "stop": Honoured([" said"], lambda seen: seen.text == "You", chat("hi")),
    "store": Harmless(True),
    "stream": Honoured(True, lambda seen: seen.response.headers["content-type"].startswith("text/event-stream")),
    "stream_options": Honoured({"include_usage": True}, lambda seen: "usage" in seen.events[-1], {"stream": True}),
    "temperature": sampled("temperature", 0.25),
    "tool_choice": Honoured("none", lambda seen: "tools" not in seen.said, chat("show", tools=[TOOL])),
    "tools": Honoured([TOOL], lambda seen: "tools" in seen.said, chat("show")),
    "top_logprobs": Honoured(
        2, lambda seen: len(seen.choice["logprobs"]["content"][0]["top_logprobs"]) == 2, {"logprobs": True}
    ),
    "top_p": sampled("top_p", 0.5),
    "user": Harmless("somebody"),
    "verbosity": Harmless("low"),
    "web_search_options": Refused({"search_context_size": "low"}),
}

EMBEDDINGS = {
    "dimensions": Honoured(8, lambda seen: len(seen.json["data"][0]["embedding"]) == 8),
    "encoding_format": Honoured("base64", lambda seen: isinstance(seen.json["data"][0]["embedding"], str)),
    "input": Honoured(["w11", "w12"], lambda seen: len(seen.json["data"]) == 2),
    "model": Honoured("no such model", lambda seen: seen.response.status_code == 404),
    "user": Harmless("somebody"),
}


def earlier(client: httpx.Client) -> str:
    """The id of a response that the server keeps."""
    return client.post("/v1/responses", json={"input": "earlier"}).json()["id"]


def kept(seen: Seen) -> bool:
    return seen.client.get(f"/v1/responses/{seen.json['id']}").status_code == 200


def scores(seen: Seen) -> list:
    return seen.json["output"][0]["content"][0]["logprobs"]


RESPONSES = {
    "access_programs": Harmless({}),
    "background": Refused(True),
    "background_options": Harmless({"completion_window": "2h"}),
    "context_management": Refused([{"type": "compaction"}]),
    "conversation": Refused("conv_1"),
    "image": Harmless({}),
    "include": Honoured(["message.output_text.logprobs"], scores),
    "input": Honoured("hi", lambda seen: seen.text == "You said: hi"),
    "instructions": Honoured("Be brief.", lambda seen: seen.said["messages"][0]["role"] == "system", {"input": "show"}),
    "max_output_tokens": Honoured(3, lambda seen: seen.json["status"] == "incomplete"),
    "max_tool_calls": Harmless(1),
    "metadata": Honoured({"a": "b"}, lambda seen: seen.json["metadata"] == {"a": "b"}),
    "model": Honoured("second", lambda seen: seen.json["model"] == "second"),
    "moderation": Refused({"model": "omni-moderation-latest"}),
    "parallel_tool_calls": Honoured(
        False, lambda seen: len(seen.json["output"]) == 1, {"input": TWO_CALLS, "tools": [FLAT_TOOL]}
    ),
    "previous_response_id": Honoured(earlier, lambda seen: len(seen.said["messages"]) == 3, {"input": "show"}),
    "prompt": Refused({"id": "pmpt_1"}),
    "prompt_cache_key": Harmless("a key"),
    "prompt_cache_options": Harmless({"mode": "explicit"}),
    "prompt_cache_retention": Harmless("24h"),
    "reasoning": Honoured(
        {"effort": "high"}, lambda seen: seen.said["variables"].get("reasoning_effort"), {"input": "show"}
    ),
    "safety_identifier": Harmless("somebody"),
    "service_tier": Harmless("flex"),
    "store": Honoured(False, lambda seen: not kept(seen)),
    "stream": Honoured(True, lambda seen: seen.response.headers["content-type"].startswith("text/event-stream")),
    "stream_options": Harmless({"include_obfuscation": True}),
    "temperature": sampled("temperature", 0.25),
    "text": Honoured({"format": {"type": "json_object"}}, lambda seen: seen.said["grammar"]),
    "tool_choice": Honoured("none", lambda seen: "tools" not in seen.said, {"input": "show", "tools": [FLAT_TOOL]}),
    "tools": Honoured([FLAT_TOOL], lambda seen: "tools" in seen.said, {"input": "show"}),
    "top_logprobs": Honoured(2, lambda seen: scores(seen) and len(scores(seen)[0]["top_logprobs"]) == 2),
    "top_p": sampled("top_p", 0.5),
    "truncation": Honoured("auto", lambda seen: seen.json["truncation"] == "auto"),
    "user": Harmless("somebody"),
}

TABLE = {
    "/v1/completions": (COMPLETIONS, {"prompt": SHOW_SAMPLING, "max_tokens": 2000}),
    "/v1/chat/completions": (CHAT, chat(SHOW_SAMPLING)),
    "/v1/embeddings": (EMBEDDINGS, {"input": "w11 w12"}),
    "/v1/responses": (RESPONSES, {"input": SHOW_SAMPLING}),
}
KNOWN = {
    "/v1/completions": completion_create_params.CompletionCreateParamsNonStreaming,
    "/v1/chat/completions": chat_create_params.CompletionCreateParamsNonStreaming,
    "/v1/embeddings": embedding_create_params.EmbeddingCreateParams,
    "/v1/responses": response_create_params.ResponseCreateParamsNonStreaming,
}


@pytest.fixture(scope="module")
def writer(start_fake):
    server = start_fake(load={"markers": FILL_IN}, names=("org--fake", "second"))
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def reader(launch, tmp_path_factory):
    """A BERT whose vectors may be cut, and which spells token 7 as w7."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(FIXTURES / "bert", folder)
    config = json.loads((folder / "config.json").read_text()) | {"is_matryoshka": True}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(96)}, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    with launch([REAL, "tiny", folder]).client() as client:
        yield client


@pytest.mark.parametrize("path", KNOWN)
def test_the_table_has_every_field_that_the_client_knows(path):
    assert set(TABLE[path][0]) == set(KNOWN[path].__annotations__)


def plain(response: httpx.Response) -> Any:
    """An answer without what is different each time."""
    text = response.text
    for key in ("id", "created", "created_at", "completed_at"):
        text = json.dumps(_without(json.loads(text), key))
    return json.loads(text)


def _without(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _without(each, key) for name, each in value.items() if name != key}
    return [_without(each, key) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("path", "name", "row"),
    [
        pytest.param(path, name, row, id=f"{path.removeprefix('/v1/')}-{name}")
        for path, (rows, _) in TABLE.items()
        for name, row in rows.items()
    ],
)
def test_every_claim_is_kept(request, path, name, row):
    client = request.getfixturevalue("reader" if path == "/v1/embeddings" else "writer")
    body = TABLE[path][1] | row.beside
    value = row.value(client) if callable(row.value) else row.value
    plainly, asked = client.post(path, json=body), client.post(path, json=body | {name: value})
    assert plainly.status_code == 200, plainly.text
    if isinstance(row, Refused):
        assert (asked.status_code, asked.json()["error"]["code"]) == (400, "unsupported_parameter"), asked.text
        assert asked.json()["error"]["param"].split(".")[0] == name
    elif isinstance(row, Harmless):
        assert asked.status_code == 200, asked.text
        assert plain(asked) == plain(plainly)
    else:
        assert row.question(Seen(asked, client)), asked.text
        assert not row.question(Seen(plainly, client)), plainly.text
    nothing = client.post(path, json=body | ({} if name in ("input", "prompt", "messages") else {name: None}))
    assert nothing.status_code == 200, nothing.text
