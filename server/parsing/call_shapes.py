"""How model families write calls, as texts with gaps: what a grammar lets a model write that has to call. Data only.

Gaps are `$name` and, for arguments as one JSON object, `$arguments`; for arguments one by one `$parameters`, each of
which is `parameter` with `$key`, `$value` and perhaps `$type`, the JSON type.
"""

from dataclasses import dataclass, replace


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
DEEPSEEK_V4 = replace(DEEPSEEK_DSML, begin="<｜DSML｜tool_calls>\n", end="</｜DSML｜tool_calls>")
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
_NAMESPACE = "]<]minimax[>["
MINIMAX_M3 = CallShape(
    f"{_NAMESPACE}<tool_call>\n",
    f'{_NAMESPACE}<invoke name="$name">$parameters{_NAMESPACE}</invoke>\n',
    "",
    f"{_NAMESPACE}</tool_call>",
    parameter=f"{_NAMESPACE}<$key>$value{_NAMESPACE}</$key>",
    text_parameter=f"{_NAMESPACE}<$key>$value{_NAMESPACE}</$key>",
    text_end=_NAMESPACE,
)
HUNYUAN_TAGS = tuple(
    f"{slash}{each}" for each in ("tool_call", "tool_sep", "arg_key", "arg_value") for slash in ("", "/")
)
HUNYUAN = CallShape(
    "<tool_calls:opensource>\n",
    "<tool_call:opensource>$name<tool_sep:opensource>\n$parameters</tool_call:opensource>\n",
    "",
    "</tool_calls:opensource>",
    parameter="<arg_key:opensource>$key</arg_key:opensource>\n<arg_value:opensource>$value</arg_value:opensource>\n",
    text_parameter="<arg_key:opensource>$key</arg_key:opensource>\n"
    "<arg_value:opensource>$value</arg_value:opensource>\n",
    text_end="</arg_value:opensource>",
)
KIMI_K3 = CallShape(
    "<|open|>tools<|sep|>",
    '<|open|>call tool="$name" index="1"<|sep|>$parameters<|close|>call<|sep|>',
    "",
    "<|close|>tools<|sep|>",
    parameter='<|open|>argument key="$key" type="$type"<|sep|>$value<|close|>argument<|sep|>',
    text_parameter='<|open|>argument key="$key" type="string"<|sep|>$value<|close|>argument<|sep|>',
    text_end="<|close|>",
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
SEED = replace(
    QWEN_CODER,
    begin="<seed:tool_call>\n",
    between="\n</seed:tool_call>\n<seed:tool_call>\n",
    end="\n</seed:tool_call>",
    parameter="<parameter=$key>$value</parameter>\n",
    text_parameter="<parameter=$key>$value</parameter>\n",
)
MINICPM = CallShape(
    "",
    '<function name="$name">$parameters</function>',
    "\n",
    "",
    parameter='<param name="$key">$value</param>',
    text_parameter='<param name="$key"><![CDATA[$value]]></param>',
    text_end="]]>",
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
SOLAR = CallShape(
    "<|tool_calls|>",
    "<|tool_call:begin|>0<|tool_call:name|>$name<|tool_call:args|>$arguments<|tool_call:end|>",
    "",
    "<|calls|>",
)
APERTUS = CallShape("<|tools_prefix|>[", '{"$name": $arguments}', ", ", "]<|tools_suffix|>")
GIGACHAT = CallShape("", f"<|message_sep|>\n\nfunction call<|role_sep|>\n{_OBJECT}", None, "")
GIGACHAT_TOKEN = CallShape("", f"<|function_call|>{_OBJECT}", None, "")
NEMOTRON = CallShape("<TOOLCALL>[", _OBJECT, ", ", "]</TOOLCALL>")
APRIEL = CallShape("<tool_calls>[", _OBJECT, ", ", "]</tool_calls>")
TOOL_CALLS = CallShape("<tool_calls>\n", _OBJECT, "\n", "\n</tool_calls>")
FUNCTIONARY = CallShape("", "$name\n$arguments", ">>>", "")
FUNCTOOLS = CallShape("functools[", _OBJECT, ", ", "]")
MUSE = CallShape(
    "",
    ' to=$name<|message|><atem:function_calls>\n<atem:invoke name="$name">\n$parameters</atem:invoke>\n'
    "</atem:function_calls>",
    "<|eom|><|start|>assistant",
    "",
    parameter='<atem:parameter name="$key">$value</atem:parameter>\n',
    text_parameter='<atem:parameter name="$key">$value</atem:parameter>\n',
    text_end="</atem:parameter>",
)
LLAMA = CallShape("", '{"name": "$name", "parameters": $arguments}', None, "")
HARMONY = CallShape("", "<|channel|>commentary to=functions.$name <|constrain|>json<|message|>$arguments", None, "")
