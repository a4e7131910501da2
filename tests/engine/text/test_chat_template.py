"""Chat templates: what they may do, what they may not, and how they fail."""

import pytest

from engine.errors import TemplateFailed
from engine.text.chat_template import ChatTemplate

SIMPLE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello"}]


def test_messages_and_the_generation_prompt_are_rendered():
    template = ChatTemplate(SIMPLE, {})
    assert template.render(HELLO) == "<user>Hello<assistant>"
    assert template.render(HELLO, add_generation_prompt=False) == "<user>Hello"


def test_special_tokens_and_variables_reach_the_template():
    template = ChatTemplate("{{ bos_token }}{{ thinking }}{{ tools | tojson }}", {"bos_token": "<s>"})
    tools = [{"name": "é"}]
    assert template.render(HELLO, tools=tools, variables={"thinking": "on"}) == '<s>on[{"name": "é"}]'


def test_a_second_template_serves_requests_with_tools():
    template = ChatTemplate("plain", {}, tool_source="with tools")
    assert (template.render(HELLO), template.render(HELLO, tools=[{}])) == ("plain", "with tools")


def test_block_tags_leave_no_blank_lines_and_generation_marks_vanish():
    marked = "{% if true %}\n  {% generation %}a{% endgeneration %}\n{% endif %}\n"
    loop = "{% for i in range(9) %}{% if i > 1 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert ChatTemplate(marked + loop, {}).render(HELLO) == "a01"


def test_a_template_that_refuses_is_quoted():
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(TemplateFailed, match="roles must alternate"):
        template.render(HELLO)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content.x.y }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ lipsum.__globals__.os }}",
        "{% for a in range(1000000) %}x{% endfor %}",
        "{{ 'x' * 10 ** 12 }}",
        "{{ [1] * 10 ** 12 }}",
        "{{ 10 ** 1000 }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    ],
)
def test_hostile_or_broken_templates_fail_with_one_sentence(source):
    with pytest.raises(TemplateFailed) as failed:
        ChatTemplate(source, {}).render(HELLO)
    assert "Traceback" not in str(failed.value)


def test_a_syntax_error_names_its_line():
    with pytest.raises(TemplateFailed, match="line 2"):
        ChatTemplate("\n{% if %}", {})


def test_output_is_bounded():
    loop = "{% for a in range(90000) %}{{ 'x' * 1000 }}{% endfor %}"
    with pytest.raises(TemplateFailed, match="exceed"):
        ChatTemplate(loop, {}).render(HELLO)


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "tools"])
def test_request_variables_cannot_replace_what_the_server_sets(name):
    with pytest.raises(TemplateFailed, match=name):
        ChatTemplate(SIMPLE, {}).render(HELLO, variables={name: "x"})


def test_a_final_message_is_continued_where_it_ends():
    template = ChatTemplate(SIMPLE + "<end>", {})
    messages = [*HELLO, {"role": "assistant", "content": "The answer is "}]
    text = template.render(messages, add_generation_prompt=False, continue_final_message=True)
    assert text == "<user>Hello<assistant>The answer is "
