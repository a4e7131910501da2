"""What grammars let models write that have to call: every family's reader takes it apart, and reasoning stays apart."""

import json
import random
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.sampling.grammar import GrammarCompiler
from engine.text.load import load_tokenizer
from server.errors import UnsupportedParameter
from server.generation.reply_grammar import ReplyConstraints, reply_grammar
from server.generation.structure import Structure
from server.parsing.choose import ReplyFormat
from server.parsing.formats import CALL_FORMATS, GENERIC, ThinkingFormat
from server.parsing.piece import joined
from server.wire.tools import Tool

STYLES = {style.name: style for style in (*CALL_FORMATS, GENERIC)}
WEATHER = {
    "type": "object",
    "properties": {
        "unit": {"enum": ["C", "F"], "type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "exact": {"type": "boolean"},
        "hours": {"type": "array", "items": {"enum": [1, 2, 3]}, "maxItems": 2},
    },
    "required": ["unit", "exact"],
}
NOTHING = {"type": "object", "maxProperties": 0}
TOOLS = tuple(
    Tool.model_validate({"function": function})
    for function in ({"name": "get_weather", "parameters": WEATHER}, {"name": "now"})
)
THINKING = ThinkingFormat("<think>", "</think>")
TOKENS = ThinkingFormat("<|im_start|>", "<repo_name>")  # for the sake of the vocabulary at hand


@pytest.fixture(scope="module")
def tokenizer(starter_model):
    return load_tokenizer(open_checkpoint(starter_model))


@pytest.fixture(scope="module")
def compiler(tokenizer):
    return GrammarCompiler(lambda: tokenizer, tokenizer.vocab_size, tokenizer.eos_token_ids)


@pytest.fixture(scope="module")
def write(tokenizer, compiler):
    """A text of a grammar: a first part that is given, and what chance makes of the rest."""

    def written(grammar, seed: int, first: str = "", most: int = 2000) -> str:
        chance, row = np.random.default_rng(seed), compiler.begin(grammar)
        ids = tokenizer.encode(first, add_special_tokens=False)
        row.take(ids)
        assert row.error is None, row.error
        while not row.is_done and len(ids) < most:
            allowed = np.flatnonzero(row.allowed())
            assert row.error is None, row.error
            ids.append(int(chance.choice(allowed)))
            row.take(ids[-1:])
        return tokenizer.decode(
            [each for each in ids if each not in tokenizer.eos_token_ids], skip_special_tokens=False
        )

    return written


def model(tokenizer, **replies):
    """What a grammar needs to know of a model."""
    return SimpleNamespace(
        tokenizer=tokenizer, replies=ReplyFormat(**replies), defaults=SimpleNamespace(reads_source=False)
    )


def calls(replies: ReplyFormat, text: str) -> list[tuple[str, dict]]:
    parser = replies.parser(
        {tool.function.name: tool.function.parameters for tool in TOOLS}, thinks=True, is_thinking=False
    )
    found: list[list] = []
    for piece in joined([*parser.push(text), *parser.finish()]):
        assert piece.field in ("call", "arguments"), (piece, text)
        if piece.field == "call":
            found.append([piece.text, ""])
        else:
            found[-1][1] += piece.text
    return [(name, json.loads(arguments)) for name, arguments in found]


@pytest.mark.parametrize("name", STYLES)
def test_what_a_family_is_made_to_write_is_read_as_calls(tokenizer, write, name):
    text_of = model(tokenizer, calls=STYLES[name])
    grammar = reply_grammar(text_of, ReplyConstraints(tools=TOOLS, must_call=True))
    seen = set()
    for seed in range(6):
        for called, arguments in calls(text_of.replies, write(grammar, seed)):
            jsonschema.validate(arguments, WEATHER if called == "get_weather" else NOTHING)
            seen.add(called)
    assert seen == {"get_weather", "now"}


def test_gpt_oss_is_made_to_call_on_its_channel(tokenizer, write):
    text_of = model(tokenizer, is_harmony=True)
    grammar = reply_grammar(text_of, ReplyConstraints(tools=TOOLS[:1], must_call=True, thinking="possible"))
    ((name, arguments),) = calls(text_of.replies, write(grammar, 1, "<|channel|>commentary"))
    assert name == "get_weather"
    jsonschema.validate(arguments, WEATHER)


@pytest.mark.parametrize("name", [style.name for style in STYLES.values() if style.shapes[0].text_end])
def test_texts_stand_as_they_are_where_a_family_writes_them_so(tokenizer, write, name):
    """A text may hold all but what ends it; quotes and brackets need no escape."""
    shape, value = STYLES[name].shapes[0], 'if a < b:\n  print("x")</'
    parameters = {"properties": {"code": {"type": "string"}}, "required": ["code"]}
    tool = Tool.model_validate({"function": {"name": "run", "parameters": parameters}})
    text_of = model(tokenizer, calls=STYLES[name])
    parameter = shape.text_parameter.replace("$key", "code").replace("$value", value)
    first = shape.begin + shape.call.replace("$name", "run").replace("$parameters", parameter) + shape.end
    text = write(reply_grammar(text_of, ReplyConstraints(tools=(tool,), must_call=True, only_one_call=True)), 1, first)
    assert text == first
    parser = text_of.replies.parser({"run": tool.function.parameters}, thinks=True, is_thinking=False)
    pieces = joined([*parser.push(text), *parser.finish()])
    assert [piece.field for piece in pieces] == ["call", "arguments"]
    assert json.loads(pieces[1].text) == {"code": value}


DIGIT = Structure("/[0-9]/", "guided_regex")


@pytest.mark.parametrize(
    ("thinking", "first"),
    [
        ("begun", "Well { 7, <think> 8.</think>"),
        ("begun", "</think>\n\n"),
        ("possible", "<think>\nWell.\n</think>\n"),
        ("possible", ""),
        ("none", ""),
    ],
)
@pytest.mark.parametrize(("marks", "budget"), [(THINKING, None), (TOKENS, None), (TOKENS, 50)])
def test_what_is_asked_for_begins_after_the_reasoning(tokenizer, write, thinking, first, marks, budget):
    first = first.replace("<think>", marks.begin).replace("</think>", marks.end)
    if marks is TOKENS:
        first = first.replace(", <|im_start|> 8", "")  # no special token is part of a text
    wanted = ReplyConstraints(DIGIT, thinking=thinking, thinking_budget=budget)
    grammar = reply_grammar(model(tokenizer, thinking=marks), wanted)
    for seed in range(3):
        rest = write(grammar, seed, first or ("4" if thinking == "possible" else "")).removeprefix(first)
        assert rest.strip().isdigit()
        assert len(rest.strip()) == 1


def test_reasoning_ends_with_its_budget(tokenizer, write):
    grammar = reply_grammar(
        model(tokenizer, thinking=TOKENS), ReplyConstraints(DIGIT, thinking="begun", thinking_budget=7)
    )
    for seed in range(5):
        text = write(grammar, seed)
        reasoning, _, answer = text.partition(TOKENS.end)
        assert reasoning
        assert len(text.encode()) < 300  # of nine tokens
        assert answer.strip().isdigit()


def test_a_budget_needs_a_token_to_end_with(tokenizer):
    with pytest.raises(UnsupportedParameter, match="</think>"):
        reply_grammar(model(tokenizer, thinking=THINKING), ReplyConstraints(thinking="begun", thinking_budget=7))


def test_a_budget_alone_leaves_the_answer_free(tokenizer, compiler):
    grammar = reply_grammar(model(tokenizer, thinking=TOKENS), ReplyConstraints(thinking="begun", thinking_budget=5))
    row = compiler.begin(grammar)
    row.take(tokenizer.encode("a b<repo_name> whatever {comes} next <|im_start|> and so on", add_special_tokens=False))
    assert row.error is None
    assert np.flatnonzero(row.allowed()).size == tokenizer.vocab_size


def test_nothing_asked_for_is_no_grammar(tokenizer):
    assert reply_grammar(model(tokenizer, thinking=THINKING), ReplyConstraints(thinking="begun")) is None
    assert reply_grammar(model(tokenizer), ReplyConstraints(tools=TOOLS)) is None


def test_a_random_choice_of_choices_is_written_in_full(tokenizer, write):
    words = [f"word {random.Random(seed).random()}" for seed in range(50)]
    rule = " | ".join(map(json.dumps, words))
    assert write(reply_grammar(model(tokenizer), ReplyConstraints(Structure(rule, "guided_choice"))), 3) in words
