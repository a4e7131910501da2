"""What is meant arrives: calls with any arguments, written as each family writes them, read whole and in any pieces."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.parsing.call_shapes import HARMONY, CallShape
from server.parsing.choose import ReplyFormat
from server.parsing.formats import CALL_FORMATS, GENERIC, MUSE, THINKING_FORMATS
from server.parsing.piece import Piece, joined

STYLES = {
    **{style.name: ReplyFormat(calls=style) for style in (*CALL_FORMATS, GENERIC)},
    "muse": ReplyFormat(calls=MUSE, has_recipients=True),
    "harmony": ReplyFormat(is_harmony=True),
}
TEXT = {"type": "string"}
SCHEMAS = {
    "write": {
        "properties": {
            "path": TEXT,
            "text": {"$ref": "#/$defs/text"},
            "times": {"type": "integer"},
            "more": {"anyOf": [{"type": "object"}, {"type": "array"}, {"type": "boolean"}]},
        },
        "$defs": {"text": TEXT},
    },
    "now": {"type": "object", "properties": {}},
}
VALUES = st.recursive(
    st.one_of(st.integers(-5, 5), st.booleans(), st.text(max_size=5)),
    lambda each: st.one_of(st.lists(each, max_size=2), st.dictionaries(st.text("abc", min_size=1), each, max_size=2)),
    max_leaves=4,
)


def shapes_of(replies: ReplyFormat) -> tuple[CallShape, ...]:
    return (HARMONY,) if replies.is_harmony else replies.calls.shapes


def written(shape: CallShape, calls) -> str:
    """Calls as the family writes them; texts stand between tags as they are."""

    def parameter(key, value):
        template, text = (
            (shape.text_parameter, value) if isinstance(value, str) else (shape.parameter, json.dumps(value))
        )
        kind = "number" if isinstance(value, int) and not isinstance(value, bool) else "object"
        return template.replace("$key", key).replace("$type", kind).replace("$value", text)

    def call(name, arguments):
        parameters = shape.separator.join(parameter(*each) for each in arguments.items())
        filled = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False), "parameters": parameters}
        return re.sub(r"\$(name|arguments|parameters)", lambda gap: filled[gap[1]], shape.call)

    return shape.begin + (shape.between or "").join(call(*each) for each in calls) + shape.end


def tags_of(replies: ReplyFormat) -> list[str]:
    """All tags of a format: its markers, and the pieces of its shapes."""
    found = set(replies.markers(calls=True))
    for shape in shapes_of(replies):
        for part in (shape.begin, shape.call, shape.end, shape.parameter, shape.text_parameter, shape.between or ""):
            found |= set(re.split(r"\$\w+", part))
            found |= set(re.findall(r"<[^<>$]*>", part))
    return sorted(each for each in found if each.strip())


def read(replies: ReplyFormat, text: str, cuts=(), *, is_cut=False, is_thinking=False, must_call=False):
    parser = replies.parser(SCHEMAS, thinks=True, is_thinking=is_thinking, must_call=must_call)
    pieces, start = [], 0
    for cut in (*sorted(cuts), len(text)):
        pieces += parser.push(text[start:cut])
        start = cut
    return joined([*pieces, *parser.finish(is_cut=is_cut)])


def calls_in(pieces):
    assert {piece.field for piece in pieces} <= {"call", "arguments"}, pieces
    found = []
    for piece in pieces:
        if piece.field == "call":
            found.append((piece.text, ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + piece.text)
    return [(name, json.loads(arguments)) for name, arguments in found]


def texts(replies: ReplyFormat):
    """Texts made of a family's own tags, and of what tells strings from their surroundings."""
    parts = st.one_of(
        st.sampled_from(tags_of(replies)), st.text(max_size=4), st.sampled_from(["\n", " ", '"', "'", "\\"])
    )
    return st.lists(parts, max_size=5).map("".join)


def calls_of(data, replies: ReplyFormat):
    """A way to write calls, and calls with any arguments."""
    text, structures = texts(replies), VALUES.filter(lambda each: isinstance(each, dict | list | bool))
    arguments = st.fixed_dictionaries(
        {}, optional={"path": text, "text": text, "times": st.integers(), "more": structures}
    )
    call = st.one_of(st.tuples(st.just("write"), arguments), st.just(("now", {})))
    shape = data.draw(st.sampled_from(shapes_of(replies)))
    return shape, data.draw(st.lists(call, min_size=1, max_size=1 if shape.between is None else 3))


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_arguments_arrive_as_they_were_meant(name, data):
    shape, calls = calls_of(data, STYLES[name])
    reply = written(shape, calls)
    cuts = data.draw(st.lists(st.integers(0, len(reply)), max_size=6))
    pieces = read(STYLES[name], reply)
    assert calls_in(pieces) == calls, reply
    for each in (cuts, range(len(reply))):
        assert read(STYLES[name], reply, each) == pieces


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_calls_that_are_cut_off_leave_nothing_of_them_in_the_content(name, data):
    shape, calls = calls_of(data, STYLES[name])
    reply = written(shape, calls)
    reply = reply[: data.draw(st.integers(0, len(reply)))]
    pieces = read(STYLES[name], reply, is_cut=True, must_call=True)
    assert {piece.field for piece in pieces} <= {"call", "arguments"}, (reply, pieces)
    assert read(STYLES[name], reply, range(len(reply)), is_cut=True, must_call=True) == pieces


@pytest.mark.parametrize("name", [name for name in STYLES if name not in ("harmony", "muse", "functionary")])
def test_calls_at_the_end_of_a_thought_that_never_ends_are_calls(name):
    replies = ReplyFormat(THINKING_FORMATS[1], STYLES[name].calls)
    shape = replies.calls.shapes[0]
    reply = written(shape, [("write", {"path": "a", "times": 2})])
    if not any(marker in reply for marker in replies.calls.opens):
        return  # a call without a marker is not told from the text around it
    thought = f"I wonder about {replies.calls.opens[0]}. Now:\n"
    for cuts in ((), range(len(thought + reply))):
        pieces = read(replies, thought + reply, cuts, is_thinking=True)
        assert pieces[0] == Piece("reasoning", thought.rstrip())
        assert calls_in(pieces[1:]) == [("write", {"path": "a", "times": 2})]
        quoted = read(replies, f"{thought}{reply}</think>Hi.", is_thinking=True)
        assert [piece.field for piece in quoted] == ["reasoning", "content"]
