"""However a reply is cut into deltas, its events tell what is answered whole, in the order that each API wants."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.messages.reply import MessageReply
from server.api.messages.schemas import MessageRequest
from server.api.responses.reply import ResponseReply
from server.api.responses.schemas import ResponseRequest
from server.api.responses.store import ResponseStore
from server.generation.continuation import Delta
from server.generation.generation import Choice
from server.parsing.piece import Piece, joined

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
TOOLS = [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
ARGUMENTS = st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3).map(json.dumps)


def message_reply(body: MessageRequest) -> MessageReply:
    reply = MessageReply(body, "m", "req")
    reply.max_tokens = 5
    return reply


def call(name: str, arguments: str) -> list[Piece]:
    return [Piece("call", name), Piece("arguments", arguments)]


PARTS = st.lists(
    st.one_of(
        TEXT.map(lambda text: [Piece("content", text)]),
        TEXT.map(lambda text: [Piece("reasoning", text)]),
        st.builds(call, st.sampled_from("fg"), ARGUMENTS),
    ),
    max_size=6,
).map(lambda parts: joined([piece for part in parts for piece in part]))


@st.composite
def replies(draw) -> tuple[list[Piece], list[Delta], str]:
    """The parts of a reply, the same as deltas, and why it ended."""
    parts, reason = draw(PARTS), draw(st.sampled_from(["stop", "length"]))
    pieces = []
    for piece in parts:
        place = 0 if piece.field == "call" else draw(st.integers(0, len(piece.text)))
        cut = [piece.text] if piece.field == "call" else [piece.text[:place], piece.text[place:]]
        pieces += [piece._replace(text=text) for text in cut if text]
    deltas, rest = [], tuple(pieces)
    while rest:
        length = draw(st.integers(1, len(rest)))
        deltas.append(Delta(0, rest[:length]))
        rest = rest[length:]
    return parts, [*deltas, Delta(0, finish_reason=reason)], reason


def events(reply, deltas: list[Delta]) -> list[dict]:
    raw = b"".join([*(reply.events(delta, lambda: USAGE) for delta in deltas), *reply.end(USAGE)]).decode()
    frames = raw.removesuffix("\n\n").split("\n\n")
    told = [json.loads(frame.split("\n", 1)[1].removeprefix("data: ")) for frame in frames]
    assert [frame.split("\n", 1)[0] for frame in frames] == [f"event: {event['type']}" for event in told]
    return told


def choice(parts: list[Piece], reason: str) -> Choice:
    return Choice(parts=parts, finish_reason=reason)


def bare(values: list[dict]) -> list[dict]:
    return [{key: each for key, each in value.items() if key not in ("id", "call_id")} for value in values]


@settings(deadline=None, max_examples=60)
@given(replies())
def test_blocks_of_a_message(reply):
    parts, deltas, reason = reply
    body = MessageRequest(messages=[{"role": "user", "content": "x"}])
    whole = message_reply(body).whole([choice(parts, reason)], USAGE)
    start, *middle, ending, stop = events(message_reply(body), deltas)
    assert [event["type"] for event in (start, ending, stop)] == ["message_start", "message_delta", "message_stop"]
    blocks: list[dict] = []
    is_open = False
    for event in middle:
        if event["type"] == "content_block_start":
            assert not is_open
            blocks.append(
                event["content_block"] | {"input": ""} if "input" in event["content_block"] else event["content_block"]
            )
        else:
            assert is_open
            add(blocks[-1], event.get("delta"))
        is_open = event["type"] != "content_block_stop"
        assert event["index"] == len(blocks) - 1
    assert not is_open
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["input"])
    assert bare(blocks) == bare(whole["content"])
    assert ending["delta"] == {key: whole[key] for key in ("stop_reason", "stop_sequence")}
    assert ending["usage"] == whole["usage"]


def add(block: dict, delta: dict | None) -> None:
    if delta is not None:
        key = {"input_json_delta": "input"}.get(delta["type"], delta["type"].removesuffix("_delta"))
        block[key] += next(value for name, value in delta.items() if name != "type")


@settings(deadline=None, max_examples=60)
@given(replies())
def test_items_of_a_response(reply):
    parts, deltas, reason = reply
    body = ResponseRequest(input="x", tools=TOOLS, store=False)
    whole = ResponseReply(body, "m", ResponseStore(), [], []).whole([choice(parts, reason)], USAGE)
    told = events(ResponseReply(body, "m", ResponseStore(), [], []), deltas)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert [event["type"] for event in told[:2]] == ["response.created", "response.in_progress"]
    items, texts = [], []
    for event in told[2:-1]:
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(items) == len(texts)
            texts.append("")
        elif event["type"] == "response.output_item.done":
            items.append(event["item"])
        else:
            assert event["output_index"] == len(items) == len(texts) - 1
            texts[-1] += event.get("delta", "")
    assert [text_of(item) for item in items] == texts
    assert told[-1]["response"]["output"] == items
    assert bare(items) == bare(whole["output"])
    assert told[-1]["type"] == f"response.{whole['status']}"


def text_of(item: dict) -> str:
    """What deltas added to an item."""
    if "content" in item:
        return item["content"][0]["text"]
    return item["input"] if item["type"] == "custom_tool_call" else item["arguments"]


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ("", {}),
        ('{"a": 1}', {"a": 1}),
        ('{"a": 1, "b": "c', {"a": 1}),
        ("[1]", {"input": [1]}),
        ("no JSON", {"input": "no JSON"}),
    ],
)
def test_arguments_that_are_no_object_are_kept(arguments, read):
    parts = [Piece("call", "f"), Piece("arguments", arguments)]
    body = MessageRequest(messages=[{"role": "user", "content": "x"}])
    whole = message_reply(body).whole([choice(parts, "stop")], USAGE)
    assert whole["content"][0]["input"] == read
