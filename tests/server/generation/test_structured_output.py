"""Answers that have to look like something, the whole way with the starter model and the official client."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import httpx
import jsonschema
import openai
import psutil
import pytest
from pydantic import BaseModel, Field

REAL = Path(__file__).parents[1] / "real_serve.py"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
QUESTION = [{"role": "user", "content": "Tell me about an apple grower."}]
WORD = {"type": "string", "maxLength": 16}

FLAT = {
    "type": "object",
    "properties": {"name": WORD, "age": {"type": "integer", "minimum": 18, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMAS = {
    "flat": FLAT,
    "nested": {
        "type": "object",
        "properties": {"who": FLAT, "kinds": {"type": "array", "items": {"enum": ["cox", 7, None]}, "maxItems": 4}},
        "required": ["who", "kinds"],
        "additionalProperties": False,
    },
    "referring": {
        "$defs": {"person": FLAT},
        "type": "array",
        "items": {"$ref": "#/$defs/person"},
        "minItems": 1,
        "maxItems": 2,
    },
    "recursive": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"leaf": {"type": "boolean"}, "below": {"type": "array", "maxItems": 1}},
                "required": ["leaf"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "one of several": {"anyOf": [{"const": "nobody"}, {"type": "integer", "minimum": 0, "maximum": 1}, FLAT]},
    "patterned": {
        "type": "object",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        },
        "required": ["day", "code"],
        "additionalProperties": False,
    },
}
SCHEMAS["recursive"]["$defs"]["tree"]["properties"]["below"]["items"] = {"$ref": "#/$defs/tree"}
TOOLS = [
    {"type": "function", "function": {"name": "find_grower", "parameters": FLAT}},
    {"type": "function", "function": {"name": "give_up"}},
]


@pytest.fixture(scope="module")
def server(launch, starter_model):
    server = launch([REAL, "smollm2-135m", starter_model])
    server.wait_for(lambda: "is loaded" in "".join(server.lines), patience_seconds=60)
    return server


@pytest.fixture
def sdk(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client


def ask(sdk, **keys):
    return sdk.chat.completions.create(**{"model": "smollm2-135m", "messages": QUESTION, "max_tokens": 300, **keys})


def format_of(schema, **keys) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **keys}}


def content(reply) -> str:
    assert reply.choices[0].finish_reason == "stop"
    return reply.choices[0].message.content


def calls(reply) -> list[tuple[str, dict]]:
    assert reply.choices[0].finish_reason == "tool_calls"
    assert not reply.choices[0].message.content
    return [(each.function.name, json.loads(each.function.arguments)) for each in reply.choices[0].message.tool_calls]


def refused(response: httpx.Response) -> dict:
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_replies_follow_schemas_of_all_kinds_side_by_side(sdk):
    asked = [(name, seed) for name in SCHEMAS for seed in range(2)]

    def reply(each):
        asked_for = format_of(SCHEMAS[each[0]], strict=True)
        return ask(sdk, response_format=asked_for, seed=each[1], max_tokens=200).choices[0]

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(reply, asked))
    for (name, _), choice in zip(asked, replies, strict=True):
        if name == "recursive" and choice.finish_reason == "length":
            continue  # nothing says how deep a tree may be
        assert choice.finish_reason == "stop"
        found = json.loads(choice.message.content)
        jsonschema.validate(found, SCHEMAS[name], format_checker=jsonschema.FormatChecker())
    assert len({choice.message.content for choice in replies}) > len(SCHEMAS)


@pytest.mark.parametrize(
    ("keys", "pattern"),
    [
        ({"structured_outputs": {"regex": "[a-c]{3}/\\d{2}|x\ny"}}, r"[a-c]{3}/\d{2}|x\ny"),
        ({"structured_outputs": {"choice": ["red apple", 'a "pear"\n', "🍏"]}}, '(?s)red apple|a "pear"\\n|🍏'),
        ({"structured_outputs": {"grammar": 'start: "My " fruit\nfruit: "pear" | /ap{2}le/'}}, "My (pear|apple)"),
        ({"structured_outputs": {"json": {"enum": [1, 2, 3]}}}, "[123]"),
        ({"structured_outputs": {"json_object": True}, "max_tokens": 2000}, r"(?s)\{.*\}"),
        ({"guided_json": '{"const": "a string"}'}, '"a string"'),
        ({"guided_regex": "^(yes|no)$"}, "yes|no"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_grammar": 'root ::= "<" [a-z]+ ">"', "logit_bias": {"46": 9}}, "<[a-z]+>"),
        ({"grammar": 'root ::= word " " word\nword ::= "tick" | "tock"'}, "t[io]ck t[io]ck"),
        ({"json_schema": {"type": "integer", "minimum": 10, "maximum": 12}}, "1[012]"),
        ({"response_format": {"type": "json_object", "schema": {"type": "object", "maxProperties": 0}}}, r"\{\}"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_every_way_to_ask_is_followed_to_the_end(server, path, keys, pattern):
    prompt = {"messages": QUESTION} if path == CHAT else {"prompt": "Fruit:"}
    with server.client() as client:
        response = client.post(path, json=prompt | {"max_tokens": 300, "seed": 1} | keys)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    text = choice["message"]["content"] if path == CHAT else choice["text"]
    if choice["finish_reason"] == "stop":
        assert re.fullmatch(pattern, text), text
    else:
        assert "json_object" in str(keys)


def test_the_clients_own_way_to_parse_works(sdk):
    class Grower(BaseModel):
        name: str = Field(max_length=20)
        kind: Literal["cooking", "eating"]
        trees: int = Field(ge=0, le=500)

    reply = sdk.chat.completions.parse(model="", messages=QUESTION, response_format=Grower, max_tokens=300)
    assert isinstance(reply.choices[0].message.parsed, Grower)


def test_a_stream_says_what_the_whole_reply_says(sdk):
    keys = {"response_format": format_of(SCHEMAS["nested"]), "seed": 3, "n": 2}
    whole = [choice.message.content for choice in ask(sdk, **keys).choices]
    streamed = ["", ""]
    with ask(sdk, **keys, stream=True) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
    assert streamed == whole
    assert whole[0] != whole[1]
    for text in whole:
        jsonschema.validate(json.loads(text), SCHEMAS["nested"])


def test_scores_seeds_and_penalties_go_with_a_schema(sdk):
    keys = {"response_format": format_of(FLAT), "seed": 5, "frequency_penalty": 1.5, "top_p": 0.9}
    plain, scored = ask(sdk, **keys), ask(sdk, **keys, logprobs=True, top_logprobs=2)
    assert content(scored) == content(plain)
    assert "".join(entry.token for entry in scored.choices[0].logprobs.content) == content(plain)


def test_a_call_that_is_required_is_made(sdk):
    for seed in range(2):
        for name, arguments in calls(ask(sdk, tools=TOOLS, tool_choice="required", seed=seed, max_tokens=1200)):
            jsonschema.validate(arguments, FLAT if name == "find_grower" else {"type": "object", "maxProperties": 0})


def test_a_named_call_is_made_once(sdk):
    named = {"type": "function", "function": {"name": "find_grower"}}
    for seed in range(4):
        ((name, arguments),) = calls(ask(sdk, tools=TOOLS, tool_choice=named, seed=seed))
        assert name == "find_grower"
        jsonschema.validate(arguments, FLAT)


def test_without_parallel_calls_there_is_exactly_one(sdk):
    for seed in range(4):
        assert len(calls(ask(sdk, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=seed))) == 1


def test_only_allowed_tools_are_called_when_one_is_required(sdk):
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "give_up"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert {name for name, _ in calls(ask(sdk, tools=TOOLS, tool_choice=choice, max_tokens=600))} == {"give_up"}


def test_a_forced_call_is_streamed_as_it_is_told_whole(sdk):
    keys = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "seed": 2}
    ((name, arguments),) = calls(ask(sdk, **keys))
    with ask(sdk, **keys, stream=True) as stream:
        deltas = [delta for chunk in stream for delta in chunk.choices[0].delta.tool_calls or ()]
    assert deltas[0].function.name == name
    assert json.loads("".join(delta.function.arguments for delta in deltas)) == arguments


def test_tools_may_be_called_instead_of_an_answer_that_follows_a_schema(sdk):
    for seed in range(2):
        reply = ask(sdk, tools=TOOLS, response_format=format_of(FLAT), seed=seed, max_tokens=800)
        if reply.choices[0].finish_reason == "stop":
            jsonschema.validate(json.loads(content(reply)), FLAT)
        else:
            assert {name for name, _ in calls(reply)} <= {"find_grower", "give_up"}


@pytest.mark.parametrize(
    ("keys", "param", "why"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format", "no schema"),
        ({"response_format": format_of({"type": "strin"})}, "response_format", "Invalid type"),
        ({"response_format": format_of([])}, "response_format", ""),
        ({"response_format": format_of(False)}, "response_format", "satisfy"),
        ({"response_format": format_of({"$ref": "#/$defs/gone"})}, "response_format", ""),
        ({"response_format": format_of({"$ref": "https://example.com/schema"})}, "response_format", "into the schema"),
        ({"response_format": format_of({"not": {"type": "null"}}, strict=True)}, "response_format", "not"),
        ({"guided_json": "{"}, "guided_json", "no JSON"),
        ({"guided_regex": "(a"}, "guided_regex", "unclosed"),
        ({"guided_regex": "a(?=b)"}, "guided_regex", "look"),
        ({"guided_regex": "a\\"}, "guided_regex", "backslash"),
        ({"guided_json": {"const": "\ud800"}}, "guided_json", "text"),
        ({"guided_grammar": "start: b"}, "guided_grammar", "unknown name"),
        ({"grammar": "root ::= b"}, "grammar", "GBNF"),
        ({"structured_outputs": {"regex": "["}}, "structured_outputs", ""),
        ({"tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "x"}}}}}],
          "tool_choice": "required"}, "tools", "Invalid type"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_followed_is_refused_before_the_answer_begins(server, keys, param, why, stream):
    body = json.dumps({"messages": QUESTION, "stream": stream} | keys)
    with server.client() as client:
        error = refused(client.post(CHAT, content=body))
    assert error["param"].split(".")[0] == param
    assert why in error["message"]
    if not error["param"].startswith("response_format."):
        assert error["code"] == "invalid_json_schema"


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"response_format": {"type": "sound"}}, "response_format.type"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structural_tag"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs"),
        ({"response_format": {"type": "json_object"}, "num_beams": 2}, "response_format"),
        ({"guided_choice": [f"{number:05} {'x' * 50}" for number in range(4000)], "n": 128}, "guided_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(server, keys, param):
    with server.client() as client:
        assert refused(client.post(CHAT, json={"messages": QUESTION} | keys))["param"] == param


def nested(depth: int) -> str:
    return '{"properties":{"a":' * depth + "{}" + "}}" * depth


HOSTILE = {
    "a pattern that doubles": {"guided_regex": "(a+)+$"},
    "a pattern of a billion": {"guided_regex": "x{1,1000000000}"},
    "a pattern of products": {"guided_regex": "(((x{1,1000}){1,1000}){1,1000}){1,1000}"},
    "a pattern of many states": {"guided_regex": "(.*a.{300}){40}"},
    "a pattern in 8000 groups": {"guided_regex": "(" * 8000 + "a" + ")" * 8000},
    "many words": {"guided_choice": [f"{number:06} {'x' * 20}" for number in range(8000)]},
    "a schema that refers to itself": {"guided_json": {"$ref": "#"}},
    "a schema of products": {
        "guided_json": {
            "allOf": [
                {"anyOf": [{"properties": {f"{a}{b}": {"const": b}}, "required": [f"{a}{b}"]} for b in range(9)]}
                for a in range(9)
            ]
        }
    },
    "a schema of 4000 properties": {
        "guided_json": {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(4000)}}
    },
    "a deep schema": {"guided_json": nested(5000)},
    "a deep schema as an object": {"response_format": nested},
    "a megabyte of choices": {"guided_json": {"enum": [f"choice {number}" for number in range(60_000)]}},
    "a grammar of many meanings": {"guided_grammar": 'start: e\ne: e e e | e e | "a" | ""'},
    "a grammar in groups": {"guided_grammar": "start: " + "(" * 9000 + '"a"' + ")" * 9000},
    "empty lines": {"guided_grammar": "\n" * 32_000},
    "a deep grammar of the other kind": {"grammar": "root ::= " + "(" * 9000 + '"a"' + ")" * 9000},
    "many rules of the other kind": {"grammar": 'root ::= "a"\n' + "\n".join(f'r{n} ::= "a"' for n in range(1500))},
}


def test_hostile_requests_hold_nobody_up_and_harm_nothing(server):
    """While they are worked on, the event loop answers others within 100 ms, and the worker lives."""
    worker = psutil.Process(server.process.pid).children()[0].pid
    waits, done = [], threading.Event()

    def look() -> None:
        with server.client() as client:
            while not done.wait(0.01):
                started = time.perf_counter()
                client.get("/version")
                waits.append(time.perf_counter() - started)

    thread = threading.Thread(target=look)
    thread.start()
    statuses = {}
    with server.client(timeout=60) as client:
        for name, keys in HOSTILE.items():
            if keys.get("response_format") is nested:
                asked = '{"type": "json_schema", "json_schema": {"schema": ' + nested(90) + "}}"
                body = json.dumps({"messages": QUESTION})[:-1] + f', "response_format": {asked}}}'
            else:
                body = json.dumps({"messages": QUESTION, "max_tokens": 8} | keys)
            started = time.perf_counter()
            response = client.post(CHAT, content=body)
            assert time.perf_counter() - started < 10, name
            statuses[name] = response.status_code
            if response.status_code == 400:
                assert response.json()["error"]["code"] == "invalid_json_schema", response.text
    done.set()
    thread.join()
    assert set(statuses.values()) <= {200, 400, 500}
    assert psutil.Process(server.process.pid).children()[0].pid == worker
    assert sorted(waits)[-2] < 0.1, sorted(waits)[-5:]
