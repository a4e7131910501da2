"""Every family's way of writing tool calls, whole and in pieces."""

import json
import time

import pytest

from server.parsing.choose import ReplyFormat, choose
from server.parsing.formats import CALL_FORMATS, GENERIC
from server.parsing.piece import Piece, joined

SCHEMAS = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "exact": {"type": "boolean"},
            "tags": {"type": "array"},
        },
    },
    "now": {"type": "object", "properties": {}},
}
STYLES = {style.name: style for style in (*CALL_FORMATS, GENERIC)}
WEATHER = ("get_weather", {"city": "Paris, FR", "days": 2})
NOW = ("now", {})


def parse(parser, text, sizes=()):
    """All pieces of a reply that arrives in chunks of these sizes, and then in one."""
    pieces = []
    for size in sizes:
        pieces += parser.push(text[:size])
        text = text[size:]
    return joined([*pieces, *parser.push(text), *parser.finish()])


def whole(name, text, **options):
    parser = ReplyFormat(calls=STYLES[name], **options).parser(SCHEMAS, thinks=True, is_thinking=False)
    letters = ReplyFormat(calls=STYLES[name], **options).parser(SCHEMAS, thinks=True, is_thinking=False)
    pieces = parse(parser, text)
    assert parse(letters, text, [1] * len(text)) == pieces
    return pieces


def calls_of(pieces):
    assert [piece.field for piece in pieces if piece.field in ("call", "arguments")][::2] == ["call"] * (
        sum(piece.field in ("call", "arguments") for piece in pieces) // 2
    )
    names = [piece.text for piece in pieces if piece.field == "call"]
    return list(zip(names, [json.loads(piece.text) for piece in pieces if piece.field == "arguments"], strict=True))


def content_of(pieces):
    return "".join(piece.text for piece in pieces if piece.field == "content")


JSON = '{"name": "get_weather", "arguments": {"city": "Paris, FR", "days": 2}}'
PARAMETERS = JSON.replace("arguments", "parameters")
REVERSED = '{"arguments": {"city": "Paris, FR", "days": 2}, "name": "get_weather"}'
NOTHING = '{"name": "now", "arguments": {}}'


@pytest.mark.parametrize(
    ("name", "text", "calls", "content"),
    [
        ("hermes", f"<tool_call>\n{JSON}\n</tool_call>", [WEATHER], ""),
        ("hermes", f"I look.\n<tool_call>\n{JSON}\n</tool_call>", [WEATHER], "I look.\n"),
        ("hermes", f"<tool_call>\n{JSON}\n</tool_call>\n<tool_call>{NOTHING}</tool_call>", [WEATHER, NOW], ""),
        ("hermes", f"<tool_call>{REVERSED}</tool_call>", [WEATHER], ""),
        ("hermes", '<tool_call>{"name": "now"}</tool_call>', [NOW], ""),
        ("hermes", f"<tool_call>{JSON}", [WEATHER], ""),
        ("hermes", f"<tool_call>[{JSON}, {NOTHING}]</tool_call>", [WEATHER, NOW], ""),
        ("hermes", f"<tool_call>{JSON}\n{NOTHING}</tool_call> bye", [WEATHER, NOW], "bye"),
        ("hermes", '<tool_call>{"name": "unheard_of", "arguments": {}}</tool_call>', [("unheard_of", {})], ""),
        (
            "hermes",
            '<tool_call>{"type": "function", "function": {"name": "now", "arguments": {}}}</tool_call>',
            [NOW],
            "",
        ),
        ("hermes", '<tool_call>{"name": "now", "arguments": "{}"}</tool_call>', [NOW], ""),
        (
            "qwen-coder",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis, FR\n</parameter>\n<parameter=days>\n2\n"
            "</parameter>\n</function>\n</tool_call>",
            [WEATHER],
            "",
        ),
        ("qwen-coder", "<function=now>\n</function>\n</tool_call>", [NOW], ""),
        ("qwen-coder", f"<tool_call>{JSON}</tool_call>", [WEATHER], ""),
        ("llama", f"<|python_tag|>{PARAMETERS}", [WEATHER], ""),
        ("llama", PARAMETERS, [WEATHER], ""),
        ("llama", f"{PARAMETERS}; {NOTHING}", [WEATHER, NOW], ""),
        ("llama", '<function=get_weather>{"city": "Paris, FR", "days": 2}</function>', [WEATHER], ""),
        ("llama", '<|python_tag|>get_weather.call(city="Paris, FR", days=2)', [WEATHER], ""),
        ("llama", "[get_weather(city='Paris, FR', days=2), now()]", [WEATHER, NOW], ""),
        ("generic", "[now()]", [NOW], ""),
        ("mistral", f"[TOOL_CALLS] [{JSON}]", [WEATHER], ""),
        ("mistral", f'[TOOL_CALLS][{JSON[:-1]}, "id": "a1b2c3d4e"}}, {NOTHING}]', [WEATHER, NOW], ""),
        (
            "mistral",
            '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris, FR", "days": 2}[TOOL_CALLS]now{}',
            [WEATHER, NOW],
            "",
        ),
        ("mistral", "One moment.[TOOL_CALLS]now[CALL_ID]a1b2c3d4e[ARGS]{}", [NOW], "One moment."),
        ("gemma", '<|tool_call>call:get_weather{city:<|"|>Paris, FR<|"|>,days:2}<tool_call|>', [WEATHER], ""),
        ("gemma", "<|tool_call>call:now{}<tool_call|><|tool_call>call:now{}<tool_call|>", [NOW, NOW], ""),
        (
            "function-gemma",
            "<start_function_call>call:get_weather{city:<escape>Paris, FR<escape>,days:2}<end_function_call>",
            [WEATHER],
            "",
        ),
        (
            "deepseek",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
            '{"city": "Paris, FR", "days": 2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
            [WEATHER],
            "",
        ),
        (
            "deepseek",
            '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris, FR", "days": 2}'
            "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            [WEATHER, NOW],
            "",
        ),
        (
            "deepseek-dsml",
            '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" '
            'string="true">Paris, FR</｜DSML｜parameter>\n'
            '<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n'
            "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
            [WEATHER],
            "",
        ),
        ("granite", f"<|tool_call|>[{JSON}, {NOTHING}]", [WEATHER, NOW], ""),
        ("granite", f"<tool_call>{JSON}</tool_call>", [WEATHER], ""),
        ("phi", f"<|tool_call|>[{JSON}]<|/tool_call|>", [WEATHER], ""),
        (
            "cohere",
            '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": '
            '{"city": "Paris, FR", "days": 2}},\n    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]'
            "<|END_ACTION|>",
            [WEATHER, NOW],
            "",
        ),
        (
            "command-r",
            'Action: ```json\n[\n    {\n        "tool_name": "now",\n        "parameters": {}\n    }\n]```',
            [NOW],
            "",
        ),
        (
            "glm",
            "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris, FR</arg_value>\n"
            "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
            [WEATHER],
            "",
        ),
        ("glm", "Well:<tool_call>now</tool_call>", [NOW], "Well:"),
        (
            "kimi",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
            '{"city": "Paris, FR", "days": 2}<|tool_call_end|><|tool_call_begin|>functions.now:1'
            "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
            [WEATHER, NOW],
            "",
        ),
        (
            "minimax",
            '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris, FR</parameter>\n'
            '<parameter name="days">2</parameter>\n</invoke>\n</minimax:tool_call>',
            [WEATHER],
            "",
        ),
        (
            "liquid",
            '<|tool_call_start|>[get_weather(city="Paris, FR", days=2), now()]<|tool_call_end|>',
            [WEATHER, NOW],
            "",
        ),
        (
            "olmo",
            '<function_calls>\nget_weather(city="Paris, FR", days=2)\nnow()\n</function_calls>',
            [WEATHER, NOW],
            "",
        ),
        ("generic", JSON, [WEATHER], ""),
        ("generic", f"```json\n{JSON}\n```", [WEATHER], ""),
        ("generic", f"<tool_call>{JSON}</tool_call>", [WEATHER], ""),
        ("generic", f'{{"tool_call": {JSON}}}', [WEATHER], ""),
    ],
)
def test_calls_are_read_whole_and_letter_by_letter(name, text, calls, content):
    pieces = whole(name, text)
    assert calls_of(pieces) == calls
    assert content_of(pieces) == content


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call>not a call</tool_call> and more"),
        ("hermes", '<tool_call>{"name": 5}</tool_call>'),
        ("hermes", "<tool_call>"),
        ("hermes", "a < b <tool"),
        ("llama", '{"name": "Ann", "parameters": {"age": 5}}'),
        ("llama", '{"answer": 42}'),
        ("llama", '  ["a", "list"]'),
        ("llama", "[then()]"),
        ("llama", "[now"),
        ("llama", "<|python_tag|>print(1)"),
        ("mistral", "[TOOL_CALLS] nothing of the kind"),
        ("gemma", '<|tool_call>call:x{a:<|"|>open'),
        ("glm", "<tool_call>f <arg_key>a</arg_key> b</tool_call>"),
        ("qwen-coder", "<tool_call><function=f><parameter=a>1</parameter>junk</function></tool_call>"),
        ("liquid", "<|tool_call_start|>[f(1)]<|tool_call_end|>"),
        ("liquid", '<|tool_call_start|>[__import__("os").system(x="ls")]<|tool_call_end|>'),
        ("minimax", "<minimax:tool_call>x</minimax:tool_call>"),
        ("generic", "```python\nprint(1)\n```"),
        ("generic", "``"),
    ],
)
def test_what_is_no_call_stays_content_to_the_letter(name, text):
    assert whole(name, text) == [Piece("content", text)]


def test_a_marker_inside_a_value_is_part_of_it():
    text = '<tool_call>{"name": "now", "arguments": {"text": "</tool_call> \\"<tool_call>"}}</tool_call> end'
    pieces = whole("hermes", text)
    assert calls_of(pieces) == [("now", {"text": '</tool_call> "<tool_call>'})]
    assert content_of(pieces) == "end"


@pytest.mark.parametrize("padding", [4000, 4070, 4080, 9000])
def test_a_head_of_any_length_gives_the_same_however_it_is_cut(padding):
    text = f'{{"name": "now",{" " * padding}"parameters": {{"a": 1}}}} <tool_call>'
    for name in ("generic", "llama", "hermes"):
        whole(name, text)
        assert calls_of(whole("hermes", f"<tool_call>{text[:-12]}</tool_call>")) == [("now", {"a": 1})]


def test_arguments_arrive_while_they_are_written():
    parser = ReplyFormat(calls=STYLES["hermes"]).parser(SCHEMAS, thinks=True, is_thinking=False)
    assert parser.push('<tool_call>{"name": "now", "arg') == []
    assert parser.push('uments": {"a": ') == [Piece("call", "now"), Piece("arguments", '{"a": ')]
    assert parser.push('"b"') == [Piece("arguments", '"b"')]
    assert parser.push("}}") == [Piece("arguments", "}")]


def test_a_call_that_is_cut_off_keeps_what_there_is():
    pieces = whole("hermes", '<tool_call>{"name": "now", "arguments": {"a": "b')
    assert pieces == [Piece("call", "now"), Piece("arguments", '{"a": "b')]


def test_values_between_tags_follow_the_schema():
    text = (
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>75</arg_value><arg_key>exact</arg_key>"
        '<arg_value>True</arg_value><arg_key>tags</arg_key><arg_value>["a"]</arg_value>'
        "<arg_key>other</arg_key><arg_value>7</arg_value>"
        "<arg_key>free</arg_key><arg_value>so so</arg_value></tool_call>"
    )
    expected = {"city": "75", "exact": True, "tags": ["a"], "other": 7, "free": "so so"}
    assert calls_of(whole("glm", text)) == [("get_weather", expected)]


@pytest.mark.parametrize(
    ("template", "tokens", "name"),
    [
        ("{{ tools }} <tool_call></tool_call>", (), "hermes"),
        ("<tool_call> <function=example> <parameter=x>", (), "qwen-coder"),
        ("<tool_call> <arg_key>", (), "glm"),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS]", (), "mistral"),
        ("nothing", ("[TOOL_CALLS]",), "mistral"),
        ("<｜tool▁calls▁begin｜>", ("<tool_call>",), "deepseek"),
        ("tools as JSON", ("<|python_tag|>",), "llama"),
        ("<|tool_call|> [", (), "granite"),
        ("<|START_ACTION|>", (), "cohere"),
        ("Action: directly_answer", (), "command-r"),
        ("", (), "generic"),
    ],
)
def test_the_format_is_chosen_by_what_the_checkpoint_shows(template, tokens, name):
    assert choose(template, tokens.__contains__).calls.name == name


@pytest.mark.parametrize("style", STYLES.values(), ids=lambda style: style.name)
def test_hostile_text_is_read_quickly(style):
    started = time.monotonic()
    for filler in (" ", "\n", "[", "{", '"', "`", ",", '{"', "<", "a(", '"id": "x", ', "</tool_call>", "[" * 50):
        for head in ("", *style.opens):
            parser = ReplyFormat(calls=style).parser(SCHEMAS, thinks=True, is_thinking=False)
            parser.push(head)
            for _ in range(10):
                parser.push(filler * (2000 // len(filler)))
            parser.finish()
    assert time.monotonic() - started < 8
