"""Items of /responses as messages of a chat. Knows both shapes; nothing of models."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

from server.api.chat.as_chat import as_chat, text_of
from server.api.chat.schemas import ChatCompletionRequest
from server.api.responses.schemas import ResponseRequest
from server.api.responses.store import ResponseStore
from server.api.responses.tools import CUSTOM_ARGUMENT, ResponseTools, chat_tool_choice, offered_name
from server.errors import InvalidRequest

Item = dict[str, Any]


def input_items(body: ResponseRequest, store: ResponseStore) -> list[Item]:
    """The request's input as items with ids; a text is a message of the user, a reference the item it names.

    Raises InvalidRequest for a reference to what is not kept.
    """
    if body.input == "":
        return []
    if isinstance(body.input, str):
        return [_with_id({"type": "message", "role": "user", "content": body.input})]
    return [_item(item, store, f"input[{index}]") for index, item in enumerate(body.input)]


def _item(item: Item, store: ResponseStore, param: str) -> Item:
    if not _is_reference(item):
        return _with_id(item)
    found = store.item(str(item.get("id")))
    if found is None:
        raise InvalidRequest(f"{param} names an item that is not kept here; send the item itself.", param=param)
    return found


def _is_reference(item: Item) -> bool:
    kind = item.get("type")
    return kind == "item_reference" or (kind is None and "role" not in item and "id" in item)


def _with_id(item: Item) -> Item:
    """The item as it is listed: with an id, and its text as a list of parts."""
    kind = str(item.get("type") or "message")
    named = {"type": kind, **item}
    if not isinstance(named.get("id"), str):
        named["id"] = f"{_PREFIXES.get(kind, 'item')}_{uuid4().hex}"
    if kind == "message" and isinstance(item.get("content"), str):
        is_own = item.get("role") == "assistant"
        part = {"type": "output_text" if is_own else "input_text", "text": item["content"]}
        named["content"] = [part | ({"annotations": []} if is_own else {})]
    return named


def chat_request(body: ResponseRequest, items: Sequence[Item]) -> ChatCompletionRequest:
    """The chat request that asks for the same. items: of the whole conversation. Raises InvalidRequest."""
    messages = (
        [{"role": "system", "content": body.instructions}] if body.instructions else []
    ) + conversation_messages(items)
    if not messages:
        raise InvalidRequest("input is empty.", param="input")
    fields = {
        "messages": messages,
        "tools": ResponseTools(body.tools).functions,
        "tool_choice": chat_tool_choice(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls,
        "max_completion_tokens": body.max_output_tokens,
        "logprobs": "message.output_text.logprobs" in body.include or body.top_logprobs > 0,
        "top_logprobs": body.top_logprobs,
        "reasoning_effort": body.reasoning.effort,
        "chat_template_kwargs": body.chat_template_kwargs,
        **_response_format(body.text.format),
    }
    return as_chat(body, "input", fields, {"response_format": "text.format", "messages": "input"})


def _response_format(given: Item) -> Item:
    """The format as a chat has it: what describes a schema lies one level deeper there."""
    kind = given.get("type", "text")
    if kind == "text":
        return {}
    if kind != "json_schema":
        return {"response_format": given}
    return {"response_format": {"type": kind, kind: {key: value for key, value in given.items() if key != "type"}}}


def conversation_messages(items: Iterable[Item]) -> list[Item]:
    """Messages in order; what the model did in one go, reasoning, text and calls, is one message again."""
    messages: list[Item] = []
    reasoning = ""
    for index, item in enumerate(items):
        kind = item.get("type") or "message"
        param = f"input[{index}]"
        if kind == "reasoning":
            reasoning += _reasoning(item, param)
            continue
        if isinstance(kind, str) and _is_passed_over(kind, item):
            continue
        read = _reader(kind) if isinstance(kind, str) else None
        if read is None:
            raise InvalidRequest(f"{param} is an item of a type that is not read here.", param=param)
        message = read(item, param)
        if message["role"] == "assistant":
            message |= {"reasoning_content": reasoning} if reasoning else {}
        reasoning = ""  # of a turn that was cut while it thought: no later turn has had this thought
        _append(messages, message)
    return messages


def _reader(kind: str) -> Callable[[Item, str], Item] | None:
    """Calls of tools that other servers know, local_shell_call and its like, are calls of functions of that name."""
    if kind in _READERS:
        return _READERS[kind]
    if kind.endswith("_call_output"):
        return _foreign_output
    return _foreign_call if kind.endswith("_call") else None


def _is_passed_over(kind: str, item: Item) -> bool:
    """Whether an item is about work of another server that leaves no result here, such as web_search_call."""
    is_foreign = kind not in _READERS
    return is_foreign and (
        (kind.endswith("_call") and not isinstance(item.get("call_id"), str)) or kind.startswith(_PASSED_OVER)
    )


def _foreign_call(item: Item, param: str) -> Item:
    given = {key: value for key, value in item.items() if key not in ("type", "id", "call_id", "status")}
    name = str(item.get("type")).removesuffix("_call")
    call = {"id": item["call_id"], "function": {"name": name, "arguments": json.dumps(given, ensure_ascii=False)}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _foreign_output(item: Item, param: str) -> Item:
    output = item.get("output")
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    call_id = item.get("call_id") or item.get("id")
    return {"role": "tool", "content": text, "tool_call_id": call_id}


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
    name = item.get("name")
    if isinstance(name, str):
        name = offered_name(name, item.get("namespace"))
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": item.get("call_id"), "function": function}]}


def _output(item: Item, param: str) -> Item:
    text = text_of(item.get("output"), f"{param}.output", images="[image]")
    return {"role": "tool", "content": text, "tool_call_id": item.get("call_id")}


def _reasoning(item: Item, param: str) -> str:
    """The text of a thought; a summary where the text itself is not there."""
    content = text_of(item.get("content"), f"{param}.content")
    return content or text_of(item.get("summary"), f"{param}.summary")


_READERS: dict[Any, Callable[[Item, str], Item]] = {
    "message": _message,
    "function_call": _call,
    "custom_tool_call": _call,
    "function_call_output": _output,
    "custom_tool_call_output": _output,
}
_PASSED_OVER = ("mcp_", "compaction", "context_compaction", "tool_search", "additional_tools")
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "function_call_output": "fco",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}
