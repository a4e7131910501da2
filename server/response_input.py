"""Items of /responses as messages of a chat. Knows both shapes; nothing of models."""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from server.as_chat import as_chat, text_of
from server.errors import InvalidRequest
from server.schemas.chat import ChatCompletionRequest
from server.schemas.responses import ResponseRequest
from server.schemas.tools import refuse_forced_call

CUSTOM_ARGUMENT = "input"
log = logging.getLogger("bramley.http")
Item = dict[str, Any]


def input_items(body: ResponseRequest) -> list[Item]:
    """The request's input as items; a text is a message of the user."""
    if body.input == "":
        return []
    if isinstance(body.input, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": body.input}]}]
    return body.input


def chat_request(body: ResponseRequest, items: Sequence[Item]) -> ChatCompletionRequest:
    """The chat request that asks for the same. items: of the whole conversation. Raises InvalidRequest."""
    refuse_forced_call(body.tool_choice)
    messages = ([{"role": "system", "content": body.instructions}] if body.instructions else []) + _messages(items)
    if not messages:
        raise InvalidRequest("input is empty.", param="input")
    fields = {
        "messages": messages,
        "tools": [tool for each in body.tools if (tool := _tool(each))],
        "tool_choice": _tool_choice(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls,
        "max_completion_tokens": body.max_output_tokens,
        "logprobs": "message.output_text.logprobs" in body.include or body.top_logprobs > 0,
        "top_logprobs": body.top_logprobs,
        "reasoning_effort": body.reasoning.effort,
        "chat_template_kwargs": body.chat_template_kwargs,
    }
    return as_chat(body, "input", fields)


def custom_tools(body: ResponseRequest) -> frozenset[str]:
    """Names of tools that take free text instead of arguments."""
    return frozenset(str(tool.get("name")) for tool in body.tools if tool.get("type") == "custom")


def custom_input(arguments: str) -> str:
    """The free text of a custom tool's call; what is not wrapped as asked is passed on as it is."""
    try:
        wrapped = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = wrapped.get(CUSTOM_ARGUMENT) if isinstance(wrapped, dict) else None
    return text if isinstance(text, str) else arguments


def _tool(tool: Item) -> Item | None:
    """A function as chat knows it; a custom tool is a function of one text. Tools that servers run are left out."""
    kind, name, description = tool.get("type"), tool.get("name"), tool.get("description") or ""
    if kind == "function":
        parameters = tool.get("parameters") or {"type": "object", "properties": {}}
        return {"function": {"name": name, "description": description, "parameters": parameters}}
    if kind == "custom":
        schema = {"type": "object", "properties": {CUSTOM_ARGUMENT: {"type": "string"}}, "required": [CUSTOM_ARGUMENT]}
        return {"function": {"name": name, "description": description, "parameters": schema}}
    log.info("a tool of a type that is not run here was left out")
    return None


def _tool_choice(choice: str | Item) -> str | Item:
    if isinstance(choice, str) or choice.get("type") != "allowed_tools":
        return choice if isinstance(choice, str) else str(choice.get("type", "auto"))
    names = [each.get("name") for each in choice.get("tools") or () if isinstance(each, dict)]
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}


def _messages(items: Iterable[Item]) -> list[Item]:
    """Messages in order; what the model did in one go, reasoning, text and calls, is one message again."""
    messages: list[Item] = []
    reasoning = ""
    for index, item in enumerate(items):
        kind = item.get("type") or "message"
        param = f"input[{index}]"
        if kind == "reasoning":
            reasoning += _reasoning(item, param)
            continue
        read = _READERS.get(kind)
        if read is None:
            raise InvalidRequest(f"{param} is an item of a type that is not read here.", param=param)
        message = read(item, param)
        if message["role"] == "assistant":
            message |= {"reasoning_content": reasoning} if reasoning else {}
            reasoning = ""
        _append(messages, message)
    return messages


def _append(messages: list[Item], message: Item) -> None:
    last = messages[-1] if messages else None
    if last is None or last["role"] != "assistant" or message["role"] != "assistant":
        messages.append(message)
        return
    last["content"] = (last.get("content") or "") + (message.get("content") or "")
    last.setdefault("tool_calls", []).extend(message.get("tool_calls", ()))
    if "reasoning_content" in message:
        last["reasoning_content"] = last.get("reasoning_content", "") + message["reasoning_content"]


def _message(item: Item, param: str) -> Item:
    return {"role": item.get("role"), "content": text_of(item.get("content"), f"{param}.content")}


def _call(item: Item, param: str) -> Item:
    arguments = item.get("arguments")
    if item.get("type") == "custom_tool_call":
        arguments = json.dumps({CUSTOM_ARGUMENT: item.get("input")}, ensure_ascii=False)
    function = {"name": item.get("name"), "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": item.get("call_id"), "function": function}]}


def _output(item: Item, param: str) -> Item:
    text = text_of(item.get("output"), f"{param}.output", images="[image]")
    return {"role": "tool", "content": text, "tool_call_id": item.get("call_id")}


def _reasoning(item: Item, param: str) -> str:
    """What was thought; a summary where the text itself is not there."""
    content = text_of(item.get("content"), f"{param}.content")
    return content or text_of(item.get("summary"), f"{param}.summary")


_READERS: dict[Any, Callable[[Item, str], Item]] = {
    "message": _message,
    "function_call": _call,
    "custom_tool_call": _call,
    "function_call_output": _output,
    "custom_tool_call_output": _output,
}
