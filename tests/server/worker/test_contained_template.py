"""Templates that come with a model cannot hold up or fill the machine."""

import contextlib
import threading
import time

import psutil
import pytest

from engine.errors import TemplateFailed
from engine.text.template_habits import JsonObject
from server.worker.contained_template import ContainedTemplate

HELLO = [{"role": "user", "content": "hello"}]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}" + "{% endfor %}" * 3
HOSTILE = {
    "nested ranges": LOOPS,
    "center": "{{ 'x' | center(10 ** 10) }}",
    "zfill": "{{ 'x'.zfill(10 ** 10) }}",
    "indent": "{{ 'x\\n' * 10000 | indent(10 ** 9) }}",
    "a wide number": "{{ '%9999999999d' % 1 }}",
    "doubling": "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "a wide constant": "{{ 'x' | center(3000000000) }}",
}


def test_a_contained_template_renders_as_any_other():
    template = ContainedTemplate(
        "{{ bos }}{% for m in messages %}{{ m.content }}{% endfor %}{{ extra }}", {"bos": "<s>"}
    )
    assert template.render(HELLO, variables={"extra": "!"}) == "<s>hello!"
    assert template.render([{"role": "user", "content": "\ud800"}], variables={"extra": 1}) == "<s>\ud8001"
    template.close()
    assert template.render(HELLO) == "<s>hello"


def test_the_second_template_is_for_tools():
    template = ContainedTemplate("plain", {}, tool_source="{{ tools[0].name }}")
    assert [template.render(HELLO), template.render(HELLO, tools=[{"name": "f"}])] == ["plain", "f"]


def test_arguments_are_written_as_json_and_nothing_else_is():
    template = ContainedTemplate("{% for m in messages %}{{ m.content }}{{ m.a }} {{ m.b }} {{ m.c }}{% endfor %}", {})
    objects = {"a": JsonObject({"k": True}), "b": {"k": True}, "c": JsonObject({"k": 1}, '{ "k" :1}')}
    message = {"role": "user", "content": "x", **objects}
    assert template.render([message]) == """x{"k": true} {'k': True} { "k" :1}"""


@pytest.mark.parametrize("source", ["{% if %}", "{{ raise_exception('no') }}", "{{ messages.x.y }}"])
def test_a_template_that_fails_says_so_each_time(source):
    template = ContainedTemplate(source, {})
    for _ in range(2):
        with pytest.raises(TemplateFailed, match=r"syntax error in line 1|refused the messages: no|no attribute"):
            template.render(HELLO)


@pytest.mark.slow
@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_ends(source):
    template = ContainedTemplate(source, {})
    with pytest.raises(TemplateFailed):
        template.render(HELLO)
    template.close()


def computing(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "server.worker.contained_template" in process.cmdline() and process.cpu_times().user > 0.8
    return False


def test_a_template_that_hangs_can_be_ended_and_fails_those_that_wait_for_it():
    template = ContainedTemplate("{% if messages[0].content == 'hang' %}" + LOOPS + "{% endif %}fine", {})
    assert template.render(HELLO) == "fine"
    failures = []

    def render(content: str) -> None:
        try:
            template.render([{"role": "user", "content": content}])
        except TemplateFailed as error:
            failures.append(error)

    threads = [threading.Thread(target=render, args=("hang",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    while not any(computing(child) for child in psutil.Process().children()):
        time.sleep(0.05)
    template.close()
    for thread in threads:
        thread.join(timeout=60)
    assert len(failures) == 3
    assert template.render(HELLO) == "fine"
