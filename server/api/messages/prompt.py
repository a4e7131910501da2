"""Messages and tools of /messages as a chat. Knows both shapes; nothing of models."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from server.api.chat.as_chat import as_chat
from server.api.chat.schemas import ChatCompletionRequest
from server.api.messages.schemas import InputMessage, MessageFields
from server.errors import InvalidRequest, UnsupportedParameter

log = logging.getLogger("bramley.http")
Block = dict[str, Any]
Message = dict[str, Any]

_NO_SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}
_IMAGE_IN_RESULT = "[image]"
# What errors of a chat are about, in this API's words.
_NAMES = {"response_format": "output_config.format", "thinking_token_budget": "thinking.budget_tokens"}
_BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n?")


def chat_request(body: MessageFields) -> ChatCompletionRequest:
    """The chat request that asks for the same. Raises InvalidRequest."""
    tools = [tool for index, each in enumerate(body.tools) if (tool := _tool(each, f"tools[{index}]"))]
    messages = _with_system(_system(body.system), _turns(body.messages))
    fields = {
        "messages": messages,
        "continue_final_message": _is_begun(messages),
        "tools": tools,
        "tool_choice": _tool_choice(body, tools),
        "parallel_tool_calls": not body.tool_choice.disable_parallel_tool_use,
        "stop": [*body.stop_sequences, *body.stop],
        **_response_format(body),
        **_thinking(body),
    }
    return as_chat(body, "messages", fields, _NAMES)


def _response_format(body: MessageFields) -> dict[str, Any]:
    given = body.output_config.format
    if given is None:
        return {}
    schema = {"name": "output", "schema": given.json_schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _thinking(body: MessageFields) -> dict[str, Any]:
    """Whether and how much to think; where nothing is said, it is left to the model."""
    kind = body.thinking.type if body.thinking else None
    if kind == "disabled":
        return {"reasoning": {"enabled": False}, "chat_template_kwargs": body.chat_template_kwargs}
    variables = {"enable_thinking": True, "thinking": True} if kind else {}
    budget = body.thinking.budget_tokens if body.thinking else None
    return {
        "reasoning_effort": body.output_config.effort,
        "chat_template_kwargs": {**variables, **body.chat_template_kwargs},
        **({} if budget is None else {"thinking_token_budget": budget}),
    }


def _tool(tool: Block, param: str) -> dict[str, Any] | None:
    """A tool that the client runs. Those of a type of their own come without a schema and are left out."""
    if tool.get("type") not in (None, "custom"):
        log.info("a tool of a type that is not known here was left out")
        return None
    schema = tool.get("input_schema") or _NO_SCHEMA
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{param}.input_schema must be an object.", param=f"{param}.input_schema")
    strict = {} if tool.get("strict") is None else {"strict": tool["strict"]}
    function = {"name": tool.get("name"), "description": tool.get("description"), "parameters": schema, **strict}
    return {"type": "function", "function": function}


def _tool_choice(body: MessageFields, tools: Sequence[dict[str, Any]]) -> str | dict[str, Any]:
    choice = body.tool_choice
    if choice.type != "tool":
        return {"auto": "auto", "any": "required", "none": "none"}[choice.type]
    if choice.name not in [tool["function"]["name"] for tool in tools]:
        raise InvalidRequest("tool_choice.name is not the name of a tool.", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}


def _is_begun(messages: Sequence[Message]) -> bool:
    """Whether the last message is the beginning of the answer."""
    last = messages[-1]
    return last["role"] == "assistant" and not last.get("tool_calls") and bool(last["content"].strip())


def _system(given: str | list[Block]) -> str:
    """The system's text, without the line that a coding agent is billed by.

    It is no part of the instructions, and differs with every request: nothing after it would ever be found again.
    """
    return _BILLING.sub("", _text_of_blocks(given, "system", "\n"))


def _with_system(system: str, turns: Iterable[Message]) -> list[Message]:
    """One system message at the front; one that comes later is told to the model as text of the user.

    Templates know no other place for it. Neighbours of one role are one message.
    """
    told: list[Message] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        if turn["role"] == "system" and any(message["role"] != "system" for message in told):
            turn["role"] = "user"
        last = told[-1] if told else None
        if last is None or last["role"] != turn["role"] or turn["role"] == "tool":
            told.append(turn)
        else:
            _join(last, turn)
    return told


def _join(message: Message, more: Message) -> None:
    # What the model said was cut from one text, what others say are texts of their own.
    between = "" if message["role"] == "assistant" or not (message["content"] and more["content"]) else "\n"
    message["content"] += between + more["content"]
    for key, empty in (("tool_calls", []), ("reasoning_content", "")):
        if key in more:
            message[key] = message.get(key, empty) + more[key]


def _turns(messages: Iterable[InputMessage]) -> Iterator[Message]:
    for index, message in enumerate(messages):
        param = f"messages[{index}].content"
        if message.role == "assistant":
            yield from _said(_blocks(message.content), param)
        elif message.role == "user":
            yield from _heard(_blocks(message.content), param)
        else:
            yield {"role": "system", "content": _text_of_blocks(message.content, param, "\n")}


def _blocks(content: str | list[Block]) -> list[Block]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _said(blocks: Sequence[Block], param: str) -> Iterator[Message]:
    """A turn of the model: its thoughts, text and calls."""
    message: Message = {"role": "assistant", "content": ""}
    for index, block in enumerate(blocks):
        place, kind = f"{param}[{index}]", block.get("type")
        if kind == "thinking":
            message["reasoning_content"] = message.get("reasoning_content", "") + _string(block, "thinking", place)
        elif kind == "tool_use":
            message.setdefault("tool_calls", []).append(_call(block, place))
        elif not (isinstance(kind, str) and kind in _PASSED_OVER):
            message["content"] += _text(block, place)
    yield message


def _call(block: Block, param: str) -> dict[str, Any]:
    given = block.get("input", {})
    if not isinstance(given, dict):
        raise InvalidRequest(f"{param}.input must be an object.", param=f"{param}.input")
    function = {"name": _string(block, "name", param), "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": _string(block, "id", param), "type": "function", "function": function}


def _heard(blocks: Sequence[Block], param: str) -> Iterator[Message]:
    """A turn of the user: results of tools are messages of their own."""
    for index, block in enumerate(blocks):
        place = f"{param}[{index}]"
        if block.get("type") == "tool_result":
            yield _result(block, place)
        else:
            yield {"role": "user", "content": _text(block, place)}
    if not blocks:
        yield {"role": "user", "content": ""}


def _result(block: Block, param: str) -> Message:
    text = _text_of_blocks(block.get("content") or "", f"{param}.content", "\n", images=_IMAGE_IN_RESULT)
    if block.get("is_error") is True:
        text = f"Error: {text}" if text else "Error"
    return {"role": "tool", "content": text, "tool_call_id": _string(block, "tool_use_id", param)}


def _text_of_blocks(content: Any, param: str, between: str, *, images: str = "") -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{param} must be a string or a list of blocks.", param=param)
    return between.join(_text(block, f"{param}[{index}]", images) for index, block in enumerate(content))


def _text(block: Any, param: str, images: str = "") -> str:
    """The text of one block. images: stands for a picture; "" refuses it."""
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        return _string(block, "text", param)
    if kind == "image" and images:
        return images
    if kind in ("document", "search_result") and _wants_citations(block):
        raise UnsupportedParameter(f"{param}.citations", "this model does not say what it takes from where")
    if kind == "compaction" and isinstance(block.get("content"), str):  # a summary of earlier turns
        return str(block["content"])
    if kind == "document":
        return _document(block, param)
    if kind == "search_result":
        text = _text_of_blocks(block.get("content") or "", f"{param}.content", "\n")
        return "\n".join((_string(block, "title", param), _string(block, "source", param), text))
    if kind == "tool_reference":
        return _string(block, "tool_name", param)
    is_known = isinstance(kind, str) and kind in _KNOWN
    named = f"a block of type {kind}" if is_known else "a block of a type that is not known here"
    raise UnsupportedParameter(param, f"it is {named}, and this model reads text")


def _wants_citations(block: Block) -> bool:
    asked = block.get("citations")
    return isinstance(asked, dict) and asked.get("enabled") is True


def _document(block: Block, param: str) -> str:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if not isinstance(source, dict) or kind not in ("text", "content"):
        raise UnsupportedParameter(f"{param}.source", "of documents, only those of plain text are read")
    text = (
        _string(source, "data", f"{param}.source")
        if kind == "text"
        else _text_of_blocks(source.get("content") or "", f"{param}.source.content", "\n")
    )
    about = [str(block[key]) for key in ("title", "context") if block.get(key)]
    return "\n".join([*about, text])


def _string(block: Block, key: str, param: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise InvalidRequest(f"{param}.{key} must be a string.", param=f"{param}.{key}")
    return value


# Of a turn of the model: thoughts that only who wrote them can read, and the work of tools of another server.
_PASSED_OVER = frozenset(
    {
        "redacted_thinking",
        "server_tool_use",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "advisor_tool_result",
        "mcp_tool_use",
        "mcp_tool_result",
        "container_upload",
        "fallback",
    }
)
_KNOWN = frozenset(
    {
        "image",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "tool_result",
        "server_tool_use",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "mcp_tool_use",
        "mcp_tool_result",
        "container_upload",
        "compaction",
        "browser_state",
    }
)
