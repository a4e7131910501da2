"""How model families write calls, as texts with gaps: what a grammar lets a model write that has to call. Data only.

Gaps are `$name` and, for arguments as one JSON object, `$arguments`; for arguments one by one `$parameters`, each of
which is `parameter` with `$key` and `$value`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallShape:
    """One way to write calls, which the reader of the same format understands.

    begin, end: around all calls; between: from one to the next; None where there is only ever one call
    parameter: of a value that is JSON; text_parameter: of a value that is a text and stands there as it is
    separator: between parameters
    text_end: what ends a text, and may not be in it
    needs: tokens without which a model was not taught this one
    """

    begin: str
    call: str
    between: str | None
    end: str
    parameter: str = ""
    text_parameter: str = ""
    separator: str = ""
    text_end: str = ""
    needs: tuple[str, ...] = ()


_OBJECT = '{"name": "$name", "arguments": $arguments}'

TAGGED_OBJECT = CallShape("<tool_call>\n", _OBJECT, "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")

DEEPSEEK_DSML = CallShape(
    "<｜DSML｜function_calls>\n",
    '<｜DSML｜invoke name="$name">\n$parameters</｜DSML｜invoke>\n',
    "",
    "</｜DSML｜function_calls>",
    parameter='<｜DSML｜parameter name="$key" string="false">$value</｜DSML｜parameter>\n',
    text_parameter='<｜DSML｜parameter name="$key" string="true">$value</｜DSML｜parameter>\n',
    text_end="</｜DSML｜parameter>",
)
DEEPSEEK = CallShape(
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>$name<｜tool▁sep｜>$arguments<｜tool▁call▁end｜>",
    "",
    "<｜tool▁calls▁end｜>",
)
DEEPSEEK_FENCED = CallShape(
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>$name\n```json\n$arguments\n```<｜tool▁call▁end｜>",
    "\n",
    "<｜tool▁calls▁end｜>",
)
KIMI = CallShape(
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>functions.$name:0<|tool_call_argument_begin|>$arguments<|tool_call_end|>",
    "",
    "<|tool_calls_section_end|>",
)
MINIMAX = CallShape(
    "<minimax:tool_call>\n",
    '<invoke name="$name">\n$parameters</invoke>\n',
    "",
    "</minimax:tool_call>",
    parameter='<parameter name="$key">$value</parameter>\n',
    text_parameter='<parameter name="$key">$value</parameter>\n',
    text_end="</parameter>",
)
GLM = CallShape(
    "<tool_call>",
    "$name\n$parameters",
    "</tool_call>\n<tool_call>",
    "</tool_call>",
    parameter="<arg_key>$key</arg_key>\n<arg_value>$value</arg_value>\n",
    text_parameter="<arg_key>$key</arg_key>\n<arg_value>$value</arg_value>\n",
    text_end="</arg_value>",
)
QWEN_CODER = CallShape(
    "<tool_call>\n",
    "<function=$name>\n$parameters</function>",
    "\n</tool_call>\n<tool_call>\n",
    "\n</tool_call>",
    parameter="<parameter=$key>\n$value\n</parameter>\n",
    text_parameter="<parameter=$key>\n$value\n</parameter>\n",
    text_end="</parameter>",
)
GEMMA = CallShape(
    "<|tool_call>",
    "call:$name{$parameters}",
    "<tool_call|><|tool_call>",
    "<tool_call|>",
    parameter="$key:$value",
    text_parameter='$key:<|"|>$value<|"|>',
    separator=",",
    text_end='<|"|>',
)
FUNCTION_GEMMA = CallShape(
    "<start_function_call>",
    "call:$name{$parameters}",
    "<end_function_call><start_function_call>",
    "<end_function_call>",
    parameter="$key:$value",
    text_parameter="$key:<escape>$value<escape>",
    separator=",",
    text_end="<escape>",
)
COHERE = CallShape(
    "<|START_ACTION|>[\n    ",
    '{"tool_call_id": "0", "tool_name": "$name", "parameters": $arguments}',
    ",\n    ",
    "\n]<|END_ACTION|>",
)
COMMAND_R = CallShape(
    "Action: ```json\n[\n    ", '{"tool_name": "$name", "parameters": $arguments}', ",\n    ", "\n]```"
)
MISTRAL = CallShape("[TOOL_CALLS][", _OBJECT, ", ", "]")
MISTRAL_NAMED = CallShape("", "[TOOL_CALLS]$name[ARGS]$arguments", "", "", needs=("[ARGS]",))
LIQUID = CallShape("<|tool_call_start|>[", _OBJECT, ", ", "]<|tool_call_end|>")
OLMO = CallShape("<function_calls>", _OBJECT, "\n", "</function_calls>")
PHI = CallShape("<|tool_call|>[", _OBJECT, ", ", "]<|/tool_call|>")
GRANITE = CallShape("<|tool_call|>[", _OBJECT, ", ", "]")
LLAMA = CallShape("", '{"name": "$name", "parameters": $arguments}', None, "")
HARMONY = CallShape("", "<|channel|>commentary to=functions.$name <|constrain|>json<|message|>$arguments", None, "")
