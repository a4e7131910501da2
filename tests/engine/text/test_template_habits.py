"""Templates get conversations in the form that they were written for, which they show by what they render."""

import json

import pytest

from engine.errors import TemplateFailed
from engine.text.chat_template import ChatTemplate
from engine.text.template_habits import JsonObject

ARGUMENTS = '{"cmd":"ls"}'
CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "sh", "arguments": JsonObject(json.loads(ARGUMENTS), ARGUMENTS)},
}
CALLED = [
    {"role": "user", "content": "ls?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "a.txt", "tool_call_id": "call12345"},
]
TURNS = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"


def per_turn(body: str) -> ChatTemplate:
    return ChatTemplate("{% for m in messages %}" + body + "{% endfor %}", {})


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def test_arguments_are_text_for_a_template_that_joins_them():
    template = per_turn(
        "{{ m.role }}:{% for c in m.tool_calls or [] %}"
        "{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}{{ m.content }};"
    )
    assert template.render(CALLED) == f"user:ls?;assistant:sh {ARGUMENTS};tool:a.txt;"


def test_arguments_are_an_object_for_a_template_that_iterates_them():
    template = per_turn(
        "{% for c in m.tool_calls or [] %}{% for key, value in c.function.arguments.items() %}"
        "<{{ key }}>{{ value }}{% endfor %}{% endfor %}{{ m.content }};"
    )
    assert template.render(CALLED) == "ls?;<cmd>ls;a.txt;"


@pytest.mark.parametrize(
    "write", ["c.function.arguments", "c.function.arguments | tojson", "'' ~ c.function.arguments"]
)
def test_arguments_that_are_written_whole_are_json_once(write):
    template = per_turn("{% for c in m.tool_calls or [] %}{{ " + write + " }}{% endfor %}{{ m.content }};")
    assert json.loads(template.render(CALLED).split(";")[1]) == {"cmd": "ls"}


def test_a_call_is_shown_where_only_null_content_shows_it():
    template = per_turn(
        "{% if m.content is none %}{% for c in m.tool_calls %}CALL {{ c.function.name }}{% endfor %}"
        "{% else %}{{ m.content }}{% endif %};"
    )
    assert template.render(CALLED) == "ls?;CALL sh;a.txt;"
    empty = [CALLED[0], {**CALLED[1], "content": ""}, CALLED[2]]
    assert template.render(empty) == "ls?;CALL sh;a.txt;"


def test_null_content_is_never_written_as_none():
    template = per_turn("{{ m.content }}{% for c in m.tool_calls or [] %}CALL {{ c.function.name }}{% endfor %};")
    assert template.render(CALLED) == "ls?;CALL sh;a.txt;"


def test_a_template_that_shows_everything_gets_the_messages_as_they_are():
    messages = [turn("system", "a"), turn("system", "b"), turn("user", "c"), turn("user", "d"), turn("system", "e")]
    assert ChatTemplate(TURNS, {}).render(messages) == "system:a;system:b;user:c;user:d;system:e;"


STRICT = "{% if m.role == 'system' and not loop.first %}{{ raise_exception('first') }}{% endif %}"
SILENT = "{% if m.role == 'system' and not loop.first %}{% continue %}{% endif %}"


@pytest.mark.parametrize("rule", [STRICT, SILENT])
def test_system_messages_are_one_for_a_template_that_knows_one(rule):
    template = per_turn(rule + "{{ m.role }}:{{ m.content }};")
    assert template.render([turn("system", "a"), turn("system", "b"), turn("user", "c")]) == "system:a\nb;user:c;"
    later = [turn("system", "a"), turn("user", "c"), turn("assistant", "d"), turn("system", "e"), turn("user", "f")]
    assert template.render(later) == "system:a;user:c;assistant:d;user:e;user:f;"


def test_neighbours_are_one_for_a_template_whose_roles_alternate():
    template = ChatTemplate(
        "{% set ns = namespace(want='user') %}{% for m in messages %}{% if m.role != 'system' %}"
        "{% if m.role != ns.want %}{{ raise_exception('alternate') }}{% endif %}"
        "{% set ns.want = 'assistant' if m.role == 'user' else 'user' %}{% endif %}"
        "{{ m.role }}:{{ m.content }};{% endfor %}",
        {},
    )
    messages = [turn("user", "a"), turn("user", "b"), turn("assistant", "c"), turn("assistant", "d"), turn("user", "e")]
    assert template.render(messages) == "user:a\nb;assistant:cd;user:e;"
    with pytest.raises(TemplateFailed, match="alternate"):
        template.render([turn("assistant", "first")])


@pytest.mark.parametrize("rule", ["{{ raise_exception('none here') }}", "{% continue %}"])
def test_a_template_without_a_system_role_shows_its_text_before_the_users(rule):
    template = per_turn("{% if m.role == 'system' %}" + rule + "{% endif %}{{ m.role }}:{{ m.content }};")
    assert template.render([turn("system", "Be brief."), turn("user", "Hi")]) == "user:Be brief.\n\nHi;"
    assert template.render([turn("system", "Be brief.")]) == "user:Be brief.;"


@pytest.mark.parametrize("text", ["<", "e", "end", "Sure: \n\n", "  indented", "a<end>b"])
def test_a_message_is_continued_with_every_character(text):
    template = per_turn("<{{ m.role }}>{{ m.content }}<end>\n")
    rendered = template.render([turn("user", "Hi"), turn("assistant", text)], continue_final_message=True)
    assert rendered == f"<user>Hi<end>\n<assistant>{text}"


def test_a_template_that_hides_the_final_message_cannot_continue_it():
    template = per_turn("{% if m.role == 'user' %}{{ m.content }}{% endif %}")
    with pytest.raises(TemplateFailed, match="continue_final_message"):
        template.render([turn("user", "Hi"), turn("assistant", "Yes")], continue_final_message=True)
