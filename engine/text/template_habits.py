"""The forms of a conversation that a chat template shows whole, found by rendering short ones. Knows no model.

Templates differ in what they accept, and say so nowhere: some iterate the arguments of a call and some join them to
text, some show a call only where the content is none, some know one system message or none, or turns of two alternating
roles alone. What a template raises at, or leaves out, it was not written for.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import TemplateFailed

_PRIVATE_USE = range(0xE000, 0xF900)
_SYSTEM, _LATER = "probe-system-a", "probe-system-b"
_ASKED, _MORE, _SAID = "probe-user-a", "probe-user-b", "probe-assistant"
_NAME, _KEY, _VALUE, _ID = "probe_name", "probe_key", "probe_value", "probe0001"
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": "",
            "parameters": {"type": "object", "properties": {_KEY: {"type": "string"}}, "required": [_KEY]},
        },
    }
]


Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None], str]


class JsonObject(dict[str, Any]):
    """An object that a template which writes it without `tojson` still writes as JSON, not as Python.

    source: the JSON that it was read from, which is written again as it is
    """

    def __init__(self, value: Mapping[str, Any], source: str = "") -> None:
        super().__init__(value)
        self.source = source

    def __str__(self) -> str:
        return self.source or json.dumps(self, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class TemplateHabits:
    """The conversations that a template shows.

    text_arguments: arguments of calls are text to it; else they are objects
    null_content: content that is null stays so; needs_null: calls are shown only where it is null
    system: it knows system messages; later_system: also several, and between other turns
    neighbours: turns of one role may follow one another
    """

    text_arguments: bool = False
    null_content: bool = False
    needs_null: bool = False
    system: bool = True
    later_system: bool = True
    neighbours: bool = True


def habits_of(render: Render, *, with_tools: bool) -> TemplateHabits:
    """Ask a template, which raises TemplateFailed where it refuses. with_tools: requests that offer tools"""
    tools = _TOOLS if with_tools else None

    def shown(messages: Sequence[Mapping[str, Any]], *texts: str) -> str:
        try:
            text = render(messages, tools)
        except TemplateFailed:
            return ""
        turns = text[max(text.rfind(_ASKED), 0) :]  # behind the tools, which hold the name of a call too
        return turns if all(each in (turns if each == _NAME else text) for each in texts) else ""

    ask, said = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}
    more = {"role": "user", "content": _MORE}
    system, later = ({"role": "system", "content": each} for each in (_SYSTEM, _LATER))
    as_object = any(shown(turns, _VALUE) for turns in _calls({_KEY: _VALUE}))
    as_text = any(shown(turns, _VALUE) for turns in _calls(f'{{"{_KEY}": "{_VALUE}"}}'))
    arguments: Any = f'{{"{_KEY}": "{_VALUE}"}}' if as_text and not as_object else {_KEY: _VALUE}
    empty, null = (shown(turns, _NAME) for turns in _calls(arguments))
    knows_null = bool(null) and "None" not in null
    return TemplateHabits(
        text_arguments=as_text and not as_object,
        null_content=knows_null,
        needs_null=knows_null and not empty,
        system=bool(shown([system, ask], _SYSTEM, _ASKED)) or not shown([ask], _ASKED),
        later_system=bool(shown([system, later, ask, said, later, more], _SYSTEM, _LATER, _ASKED)),
        neighbours=bool(shown([ask, more, said, said, ask], _MORE, _ASKED, _SAID)),
    )


def _calls(arguments: Any) -> Iterator[list[dict[str, Any]]]:
    """A turn with a call, without content: empty, then null."""
    call = {"id": _ID, "type": "function", "function": {"name": _NAME, "arguments": arguments}}
    for content in ("", None):
        yield [
            {"role": "user", "content": _ASKED},
            {"role": "assistant", "content": content, "tool_calls": [call]},
            {"role": "tool", "name": _NAME, "tool_call_id": _ID, "content": "probe_result"},
        ]


def adapted(messages: Sequence[Mapping[str, Any]], habits: TemplateHabits) -> list[dict[str, Any]]:
    """Messages whose content may be null, and whose arguments are objects, with both as the template wants them."""
    return [_adapted(message, habits) for message in messages]


def _adapted(message: Mapping[str, Any], habits: TemplateHabits) -> dict[str, Any]:
    calls, content = message.get("tool_calls"), message.get("content")
    keeps_null = bool(calls) and (habits.needs_null if content == "" else habits.null_content)
    told = {**message, "content": content or (None if keeps_null else "")}
    if calls and habits.text_arguments:
        told["tool_calls"] = [_with_text(call) for call in calls]
    return told


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    is_text = isinstance(arguments, str | JsonObject)
    text = str(arguments) if is_text else json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


def fitted(messages: Sequence[Mapping[str, Any]], habits: TemplateHabits) -> list[dict[str, Any]]:
    """The conversation in a form that the template shows; a form that it shows already is left alone."""
    told = [dict(message) for message in messages]
    if not habits.later_system:
        told = _with_one_system(told)
    if not habits.system:
        told = _without_system(told)
    return told if habits.neighbours else _joined(told)


def merged(messages: Sequence[Mapping[str, Any]], habits: TemplateHabits) -> list[dict[str, Any]]:
    """The conversation in the strictest form: one system message in front, and no neighbours of one role."""
    told = _with_one_system([dict(message) for message in messages])
    return _joined(told if habits.system else _without_system(told))


def _with_one_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """System messages at the front are one; one that comes later is told as text of the user."""
    told: list[dict[str, Any]] = []
    for message in messages:
        is_later = message["role"] == "system" and any(each["role"] != "system" for each in told)
        given = {**message, "role": "user"} if is_later else message
        if is_later and told[-1]["role"] == "user":
            _join(told[-1], given)
        elif given["role"] == "system" and told:
            _join(told[0], given)
        else:
            told.append(given)
    return told


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The system's text before the first turn of the user."""
    if not messages or messages[0]["role"] != "system":
        return messages
    system, *rest = messages
    place = next((index for index, message in enumerate(rest) if message["role"] == "user"), None)
    if place is None or rest[0]["role"] != "user":
        return [{**system, "role": "user"}, *rest]
    both = "\n\n".join(filter(None, (system["content"], rest[place]["content"])))
    return [*rest[:place], {**rest[place], "content": both}, *rest[place + 1 :]]


def _joined(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    for message in messages:
        if told and told[-1]["role"] == message["role"] != "tool":
            _join(told[-1], message)
        else:
            told.append(message)
    return told


def _join(message: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add a message to its neighbour. What the model said was cut from one text; what others say is a text each."""
    between = "" if message["role"] == "assistant" else "\n"
    texts = [each for each in (message["content"], more["content"]) if each]
    message["content"] = between.join(texts) if texts or more["content"] == "" else message["content"]
    for key, empty in (("tool_calls", []), ("reasoning_content", ""), ("thinking", "")):
        if more.get(key):
            message[key] = (message.get(key) or empty) + more[key]


def unused_mark(values: Any) -> str:
    """A private-use character that occurs in none of the strings."""
    used = set(_characters(values))
    return next(chr(code) for code in _PRIVATE_USE if chr(code) not in used)


def _characters(value: Any) -> set[str]:
    if isinstance(value, str):
        return set(value)
    if isinstance(value, Mapping):
        return set().union(*(_characters(each) for each in (*value, *value.values())))
    return set().union(*(_characters(each) for each in value)) if isinstance(value, list | tuple) else set()
