"""Tools of /responses as functions of a chat, and what a call of one of them is called. Knows no model."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from server.errors import InvalidRequest, MissingParameter, UnsupportedParameter

CUSTOM_ARGUMENT = "input"
_FREE_TEXT = {
    "type": "object",
    "properties": {CUSTOM_ARGUMENT: {"type": "string"}},
    "required": [CUSTOM_ARGUMENT],
}
_MODES = ("none", "auto", "required")
log = logging.getLogger("bramley.http")
Item = dict[str, Any]


class CalledTool(NamedTuple):
    """The client's own tool behind a function that the model calls.

    is_custom: it takes free text instead of arguments
    """

    name: str
    namespace: str | None = None
    is_custom: bool = False


class ResponseTools:
    """The tools of one request.

    functions: as a chat has them; their names are unique, so those of a namespace begin with it
    """

    def __init__(self, tools: Sequence[Item]) -> None:
        self.functions: list[Item] = []
        self._called: dict[str, CalledTool] = {}
        for tool, namespace, param in _flat(tools):
            name = _name(tool, param)
            self._called[offered_name(name, namespace)] = CalledTool(name, namespace, tool["type"] == "custom")
            self.functions.append(_function(tool, offered_name(name, namespace)))

    def called(self, offered: str) -> CalledTool:
        """The tool that was offered under this name; one that was not offered has no other name."""
        return self._called.get(offered, CalledTool(offered))


def offered_name(name: str, namespace: Any) -> str:
    """The name that the model sees."""
    if not namespace or not isinstance(namespace, str):
        return name
    return namespace + name if namespace.endswith("_") else f"{namespace}__{name}"


def custom_input(arguments: str) -> str:
    """The free text of a custom tool's call; what is not wrapped as asked is passed on as it is."""
    try:
        wrapped = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = wrapped.get(CUSTOM_ARGUMENT) if isinstance(wrapped, dict) else None
    return text if isinstance(text, str) else arguments


def chat_tool_choice(choice: str | Item) -> str | Item:
    """The choice as a chat has it. Raises InvalidRequest."""
    if isinstance(choice, str):
        if choice not in _MODES:
            raise InvalidRequest(f"tool_choice must be one of {', '.join(_MODES)}, or an object.", param="tool_choice")
        return choice
    kind = choice.get("type")
    if kind in _MODES:
        return str(kind)
    if kind == "allowed_tools":
        given = choice.get("tools")
        tools = [_named(each) for each in given if isinstance(each, dict)] if isinstance(given, list) else []
        return {"type": kind, "allowed_tools": {"mode": choice.get("mode") or "auto", "tools": tools}}
    if kind not in ("function", "custom"):
        raise UnsupportedParameter("tool_choice", "tools of that type are not run here")
    return _named(choice)


def _named(tool: Item) -> Item:
    return {"type": "function", "function": {"name": offered_name(str(tool.get("name")), tool.get("namespace"))}}


def _name(tool: Item, param: str) -> str:
    """A tool's name. Raises InvalidRequest, also for a tool in the form of chat completions, whose name lies deeper."""
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise MissingParameter(f"{param}.name")
    return name


def _flat(
    tools: Iterable[Item], namespace: str | None = None, place: str = "tools"
) -> Iterator[tuple[Item, str | None, str]]:
    """Tools that the client runs, with their namespaces and places. Tools that servers run are left out."""
    for index, tool in enumerate(tools):
        kind, param = tool.get("type"), f"{place}[{index}]"
        if kind in ("function", "custom"):
            yield tool, namespace, param
        elif kind == "namespace" and namespace is None:
            inner = tool.get("tools")
            own = [each for each in inner if isinstance(each, dict)] if isinstance(inner, list) else []
            yield from _flat(own, _name(tool, param), f"{param}.tools")
        else:
            log.info("a tool of a type that is not run here was left out")


def _function(tool: Item, name: str) -> Item:
    """A custom tool is a function of one text."""
    description = tool.get("description") or ""
    if tool["type"] == "function":
        parameters = tool.get("parameters") or {"type": "object", "properties": {}}
        strict = {} if tool.get("strict") is None else {"strict": tool["strict"]}
        function = {"name": name, "description": description, "parameters": parameters, **strict}
        return {"type": "function", "function": function}
    syntax = tool.get("format")
    if isinstance(syntax, dict) and syntax.get("type") == "grammar":
        wanted = f"{CUSTOM_ARGUMENT} has to match this {syntax.get('syntax')} grammar:\n{syntax.get('definition')}"
        description = f"{description}\n{wanted}" if description else wanted
    return {"type": "function", "function": {"name": name, "description": description, "parameters": _FREE_TEXT}}
