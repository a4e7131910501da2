"""Tools for models whose chat template knows none: described in a system message, calls and results as plain text."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_INSTRUCTION = """\
You can call functions. Each line is one of them, as JSON:
{tools}

To call a function, answer with nothing but this, once per call:
<tool_call>
{{"name": "function name", "arguments": {{"parameter": "value"}}}}
</tool_call>
You are told the result and can then answer. When no function helps, answer as usual."""


def with_tools_in_words(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The messages with the tools described before them, and without calls and tool messages."""
    told = [_in_words(message) for message in messages]
    if not tools:
        return told
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    instruction = _INSTRUCTION.format(tools=lines)
    if told and told[0]["role"] == "system":
        first = {**told[0], "content": f"{told[0]['content']}\n\n{instruction}".strip()}
        return [first, *told[1:]]
    return [{"role": "system", "content": instruction}, *told]


def _in_words(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    if not message.get("tool_calls"):
        return dict(message)
    functions = [call["function"] for call in message["tool_calls"]]
    calls = [f"<tool_call>\n{json.dumps(each, ensure_ascii=False)}\n</tool_call>" for each in functions]
    plain = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**plain, "content": "\n".join([*filter(None, [message["content"]]), *calls])}
