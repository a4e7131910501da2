"""Reasoning and content, and what holds for every text: any cut gives the same, nothing raises or is lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.parsing.choose import ReplyFormat, choose, needed_ids
from server.parsing.formats import CALL_FORMATS, GENERIC, THINKING_FORMATS
from server.parsing.harmony_parser import MARKERS
from server.parsing.piece import Piece, joined

SCHEMAS = {"f": {"properties": {"x": {"type": "string"}}}, "now": {}}
THINK = THINKING_FORMATS[1]


def parse(style: ReplyFormat, text, cuts=(), *, schemas=None, is_thinking=False):
    parser = style.parser(schemas, thinks=True, is_thinking=is_thinking)
    pieces, start = [], 0
    for cut in sorted(cuts):
        pieces += parser.push(text[start:cut])
        start = cut
    return joined([*pieces, *parser.push(text[start:]), *parser.finish()])


def fields(pieces):
    return [(piece.field, piece.text) for piece in pieces]


@pytest.mark.parametrize("thinking", THINKING_FORMATS, ids=lambda each: each.begin)
def test_reasoning_is_set_apart_from_the_content(thinking):
    style = ReplyFormat(thinking=thinking)
    text = f"{thinking.begin}\nHm, 2 < 3.\n{thinking.end}\n\nIt is 3."
    for cuts in ((), range(len(text))):
        assert fields(parse(style, text, cuts)) == [("reasoning", "Hm, 2 < 3."), ("content", "It is 3.")]
    opened = text.removeprefix(thinking.begin)
    assert fields(parse(style, opened, is_thinking=True)) == [("reasoning", "Hm, 2 < 3."), ("content", "It is 3.")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", [("content", "plain")]),
        ("  plain\n", [("content", "  plain\n")]),
        ("\n", [("content", "\n")]),
        ("", []),
        ("<think", [("content", "<think")]),
        ("Write <think> like this </think>", [("content", "Write <think> like this </think>")]),
        ("<think>never ends", [("reasoning", "never ends")]),
        ("<think>\n\n</think>\n\nquick", [("content", "quick")]),
        ("<think>a</think>", [("reasoning", "a")]),
        ("<think>a</thin", [("reasoning", "a</thin")]),
        ("<think>a</think>\n\n<think>b</think>", [("reasoning", "a"), ("content", "<think>b</think>")]),
    ],
)
def test_only_the_beginning_of_a_reply_is_reasoning(text, expected):
    style = ReplyFormat(thinking=THINK)
    assert fields(parse(style, text)) == fields(parse(style, text, range(len(text)))) == expected


def test_content_says_where_in_the_reply_it_stands():
    text = "<think>a</think>\n\nbc"
    assert parse(ReplyFormat(thinking=THINK), text)[-1] == Piece("content", "bc", text.index("bc"))


def test_wrappers_of_the_content_are_dropped_where_the_template_has_them():
    style = choose("<think></think><response></response>", lambda _: False)
    text = "<think>a</think>\n<response>b</response>"
    assert fields(parse(style, text)) == [("reasoning", "a"), ("content", "b")]


HARMONY = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
    '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": "1"}'
)


def test_channels_are_told_apart():
    style = ReplyFormat(is_harmony=True)
    expected = [("reasoning", "Hm."), ("content", "I look."), ("call", "f"), ("arguments", '{"x": "1"}')]
    for cuts in ((), range(len(HARMONY))):
        assert fields(parse(style, HARMONY, cuts, schemas=SCHEMAS)) == expected
    assert fields(parse(style, HARMONY)) == [*expected[:2], ("reasoning", '{"x": "1"}')]
    final = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b"
    assert fields(parse(style, final)) == [("reasoning", "a"), ("content", "b")]
    recipient_first = "<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}"
    assert fields(parse(style, recipient_first, schemas=SCHEMAS)) == [("call", "f"), ("arguments", "{}")]


def test_only_tokens_that_a_parser_looks_for_are_kept_in_the_text():
    special = [(1, "<|im_end|>"), (2, "<tool_call>"), (3, "</think>"), (4, "<|channel>"), (5, "")]
    style = choose("<tool_call> </think>", lambda _: False)
    assert needed_ids(style.markers(calls=True), special) == {2, 3}
    assert needed_ids(style.markers(calls=False), special) == {3}


STYLES = {
    **{style.name: ReplyFormat(calls=style, thinking=THINK) for style in (*CALL_FORMATS, GENERIC)},
    "granite-thinking": ReplyFormat(calls=GENERIC, thinking=THINKING_FORMATS[0]),
    "harmony": ReplyFormat(is_harmony=True),
}
_BITS = (
    " ","\n", "a", "f", "now", '{"name": "f", "arguments": {"x": "1"}}', '{"name": "f", "parameters": {',
    '"x": "', '"',
    "}", "{", "[", "]", ",", ";", "```json\n", "```", "\\", '{"a', "functions.f:0", "f(x=1)", "call:f{x:1}", "=", ">",
    "<function=f>", "<parameter=x>", "</parameter>", "</function>", 'invoke name="f">', "</invoke>", "analysis",
    "commentary to=functions.f", "final", "ü",
)  # fmt: skip


def texts(name: str) -> st.SearchStrategy[str]:
    style = STYLES[name]
    markers = MARKERS if name == "harmony" else style.markers(calls=True)
    whole = st.sampled_from((*_BITS, *markers, *markers))
    broken = st.builds(lambda text, end: text[:end], whole, st.integers(1, 12))
    return st.lists(st.one_of(whole, whole, broken, st.text(max_size=8)), max_size=14).map("".join)


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_cut_gives_the_same_and_nothing_is_lost(name, data):
    text = data.draw(texts(name))
    is_thinking = data.draw(st.booleans())
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    expected = parse(STYLES[name], text, schemas=SCHEMAS, is_thinking=is_thinking)
    for each in (cuts, range(len(text))):
        assert parse(STYLES[name], text, each, schemas=SCHEMAS, is_thinking=is_thinking) == expected
    for piece in expected:
        if piece.field == "content":
            assert text[piece.start :].startswith(piece.text[:1])
    if name != "harmony" and not any(piece.field == "call" for piece in expected):
        assert letters(text, name) == letters("".join(piece.text for piece in expected), name)


def letters(text: str, name: str) -> str:
    """The text without space, and without the markers that may be dropped."""
    style = STYLES[name]
    kept = text
    for marker in (*style.markers(calls=False), *style.calls.silent):
        kept = kept.replace(marker, "")
    return "".join(kept.split())
