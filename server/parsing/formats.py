"""How model families write reasoning and tool calls: a table of each. Data, chosen by what a checkpoint itself shows.

A family is never known by its name: a row is taken when the chat template or the vocabulary holds its signs.
"""

import re
from dataclasses import dataclass
from functools import partial

from server.parsing import call_heads, call_shapes, tagged_calls
from server.parsing.braced_calls import read_braced_calls
from server.parsing.call_format import CallFormat
from server.parsing.json_calls import OBJECT_HEAD, read_json_calls, read_keyed_calls
from server.parsing.nested_calls import NAMESPACE, read_nested_calls
from server.parsing.python_calls import read_python_calls
from server.parsing.tagged_calls import read_function_tags, read_invoke_tags, read_keyed_tags


@dataclass(frozen=True, slots=True)
class ThinkingFormat:
    """How reasoning is set apart.

    begin, end: around it
    silent: markers of the content that are no part of it
    signs: each of them is in the template or a token of the vocabulary; where there are none, the end is the sign, and
        the silent markers have to be in the template
    then: what a model writes between its reasoning and its content
    """

    begin: str
    end: str
    silent: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    then: str = ""


THINKING_FORMATS = (
    ThinkingFormat("<think>", "</think>", silent=("<response>", "</response>")),
    ThinkingFormat("<think>", "</think>"),
    ThinkingFormat("[THINK]", "[/THINK]"),
    ThinkingFormat("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkingFormat("<|channel>thought", "<channel|>"),
    ThinkingFormat("<seed:think>", "</seed:think>"),
    ThinkingFormat("<mm:think>", "</mm:think>"),
    ThinkingFormat("<think:opensource>", "</think:opensource>", signs=(":opensource", "</think")),
    ThinkingFormat(
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
        silent=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>", "<|end_of_msg|>"),
        signs=("<|open|>", "<|close|>", "<|sep|>"),
    ),
    ThinkingFormat(
        "<|think|>",
        "<|end|>",
        silent=("<|begin|>assistant", "<|content|>", "<|end|>"),
        signs=("<|think|>", "<|begin|>", "<|content|>"),
        then="<|begin|>assistant",
    ),
    ThinkingFormat("<|inner_prefix|>", "<|inner_suffix|>"),
    ThinkingFormat("◁think▷", "◁/think▷"),
    ThinkingFormat("<|begin_of_thought|>", "<|end_of_thought|>"),
    ThinkingFormat("<reasoning>", "</reasoning>"),
    ThinkingFormat("Here is my thought process:", "Here is my response:"),
    ThinkingFormat(
        "Here are my reasoning steps:",
        "[BEGIN FINAL RESPONSE]",
        silent=("[END FINAL RESPONSE]",),
        signs=("[BEGIN FINAL RESPONSE]",),
    ),
)

GENERIC = CallFormat("generic", (), ("<tool_call>",), ("</tool_call>",), bare=True)

# Calls of known functions in a list without markers, at the beginning of the content.
PYTHON_LIST = CallFormat("python", (), (), heads=(), begins=re.compile(r"\["), readers=(read_python_calls,))

# Calls within messages to functions.
MUSE = CallFormat(
    "muse",
    ("<atem:function_calls>",),
    ("<atem:function_calls>",),
    ("</atem:function_calls>",),
    heads=(),
    begins=re.compile(r"\s*+<atem:invoke"),
    readers=(tagged_calls.ATEM_TAGS.reader(),),
    shapes=(call_shapes.MUSE,),
)

_tags = partial(CallFormat, heads=())
_PYTHON_BEGINS = re.compile(r"\s*+(?:[\[{`]|[A-Za-z_][\w.]{0,255}+\()")

# From the most telling signs to the least; the first row whose signs are all there is taken.
CALL_FORMATS = (
    _tags(
        "deepseek-v4",
        ("｜DSML｜", "tool_calls>"),
        ("<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"),
        ("</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"),
        inner=("｜DSML｜",),
        begins=re.compile(r"\s*+<｜DSML｜invoke"),
        readers=(tagged_calls.DSML_TAGS.reader(),),
        shapes=(call_shapes.DEEPSEEK_V4,),
    ),
    _tags(
        "deepseek-dsml",
        ("｜DSML｜",),
        ("<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"),
        ("</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"),
        inner=("｜DSML｜",),
        begins=re.compile(r"\s*+<｜DSML｜invoke"),
        readers=(tagged_calls.DSML_TAGS.reader(),),
        shapes=(call_shapes.DEEPSEEK_DSML,),
    ),
    CallFormat(
        "deepseek",
        ("<｜tool▁calls▁begin｜>",),
        ("<｜tool▁calls▁begin｜>",),
        ("<｜tool▁calls▁end｜>",),
        inner=("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
        heads=(call_heads.DEEPSEEK,),
        tail=call_heads.DEEPSEEK_TAIL,
        shapes=(call_shapes.DEEPSEEK, call_shapes.DEEPSEEK_FENCED),
    ),
    CallFormat(
        "kimi",
        ("<|tool_calls_section_begin|>",),
        ("<|tool_calls_section_begin|>",),
        ("<|tool_calls_section_end|>",),
        inner=("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
        heads=(call_heads.KIMI,),
        tail=call_heads.KIMI_TAIL,
        shapes=(call_shapes.KIMI,),
    ),
    _tags(
        "kimi-k3",
        ("<|open|>", "<|close|>", "<|sep|>"),
        ("<|open|>tools<|sep|>",),
        ("<|close|>tools<|sep|>",),
        inner=("<|open|>", "<|close|>", "<|sep|>"),
        begins=re.compile(r"\s*+<\|open\|>call "),
        readers=(tagged_calls.read_kimi_tags,),
        shapes=(call_shapes.KIMI_K3,),
    ),
    _tags(
        "minimax-m3",
        (NAMESPACE,),
        (f"{NAMESPACE}<tool_call>",),
        (f"{NAMESPACE}</tool_call>",),
        inner=(NAMESPACE,),
        begins=re.compile(rf"\s*+{re.escape(NAMESPACE)}<invoke"),
        readers=(read_nested_calls,),
        shapes=(call_shapes.MINIMAX_M3,),
    ),
    _tags(
        "minimax",
        ("<minimax:tool_call>",),
        ("<minimax:tool_call>",),
        ("</minimax:tool_call>",),
        begins=re.compile(r"\s*+<invoke"),
        readers=(read_invoke_tags,),
        shapes=(call_shapes.MINIMAX,),
    ),
    _tags(
        "hunyuan",
        (":opensource", "<tool_sep"),
        ("<tool_calls:opensource>",),
        ("</tool_calls:opensource>",),
        inner=tuple(f"<{each}:opensource>" for each in call_shapes.HUNYUAN_TAGS),
        begins=re.compile(r"\s*+<tool_call:opensource>"),
        readers=(tagged_calls.SUFFIXED_TAGS.reader(),),
        shapes=(call_shapes.HUNYUAN,),
    ),
    _tags(
        "glm",
        ("<arg_key>", "<tool_call>"),
        ("<tool_call>",),
        ("</tool_call>",),
        inner=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        begins=re.compile(r"\s*+(?:[\[{`]|[^\s<{]{1,256}+\s*+(?:<arg_key>|\Z))"),
        readers=(read_keyed_tags, read_json_calls),
        shapes=(call_shapes.GLM,),
    ),
    _tags(
        "seed",
        ("<seed:tool_call>",),
        ("<seed:tool_call>",),
        ("</seed:tool_call>",),
        begins=re.compile(r"\s*+(?:[\[{`]|<function=)"),
        readers=(tagged_calls.SEED_TAGS.reader(), read_json_calls),
        shapes=(call_shapes.SEED,),
    ),
    _tags(
        "qwen-coder",
        ("<function=", "<parameter="),
        ("<tool_call>", "<function="),
        ("</tool_call>",),
        own_closes={"<function=": "</function>"},
        begins=re.compile(r"\s*+(?:[\[{`]|<function=|[^<>\n\"]{1,256}+>)"),
        readers=(read_function_tags, read_json_calls),
        shapes=(call_shapes.QWEN_CODER,),
    ),
    _tags(
        "minicpm",
        ('<function name="', '<param name="'),
        ('<function name="',),
        own_closes={'<function name="': "</function>"},
        begins=re.compile(r"[^\"<>]{1,256}+\""),
        readers=(tagged_calls.PARAM_TAGS.reader(),),
        shapes=(call_shapes.MINICPM,),
    ),
    _tags(
        "gemma",
        ("<|tool_call>",),
        ("<|tool_call>",),
        ("<tool_call|>",),
        inner=('<|"|>',),
        begins=re.compile(r"\s*+call:"),
        readers=(read_braced_calls,),
        shapes=(call_shapes.GEMMA,),
    ),
    _tags(
        "function-gemma",
        ("<start_function_call>",),
        ("<start_function_call>",),
        ("<end_function_call>",),
        inner=("<escape>",),
        begins=re.compile(r"\s*+call:"),
        readers=(read_braced_calls,),
        shapes=(call_shapes.FUNCTION_GEMMA,),
    ),
    CallFormat(
        "cohere", ("<|START_ACTION|>",), ("<|START_ACTION|>",), ("<|END_ACTION|>",), shapes=(call_shapes.COHERE,)
    ),
    CallFormat(
        "command-r", (("directly_answer", "directly-answer"), "Action:"), ("Action:",), shapes=(call_shapes.COMMAND_R,)
    ),
    CallFormat(
        "solar",
        ("<|tool_call:begin|>",),
        ("<|tool_calls|>",),
        ("<|calls|>",),
        inner=("<|tool_call:begin|>", "<|tool_call:name|>", "<|tool_call:args|>", "<|tool_call:end|>"),
        heads=(call_heads.SOLAR,),
        tail=call_heads.SOLAR_TAIL,
        shapes=(call_shapes.SOLAR,),
    ),
    _tags(
        "apertus",
        ("<|tools_prefix|>",),
        ("<|tools_prefix|>",),
        ("<|tools_suffix|>",),
        readers=(read_keyed_calls,),
        shapes=(call_shapes.APERTUS,),
    ),
    CallFormat(
        "gigachat-token",
        ("<|function_call|>",),
        ("<|function_call|>",),
        ("<|message_sep|>",),
        silent=("<|message_sep|>",),
        shapes=(call_shapes.GIGACHAT_TOKEN,),
    ),
    CallFormat(
        "gigachat",
        ("function call", "<|role_sep|>"),
        ("<|message_sep|>\n\nfunction call<|role_sep|>\n", "function call<|role_sep|>\n"),
        ("<|message_sep|>",),
        silent=("<|message_sep|>",),
        shapes=(call_shapes.GIGACHAT,),
    ),
    CallFormat("nemotron", ("<TOOLCALL>",), ("<TOOLCALL>",), ("</TOOLCALL>",), shapes=(call_shapes.NEMOTRON,)),
    CallFormat(
        "functionary",
        (">>>all", "recipient"),
        (">>>",),
        silent=(">>>all\n",),
        heads=(call_heads.RECIPIENT,),
        lead=">>>",
        shapes=(call_shapes.FUNCTIONARY,),
    ),
    CallFormat("functools", ("functools[",), ("functools[",), shapes=(call_shapes.FUNCTOOLS,)),
    CallFormat(
        "mistral",
        ("[TOOL_CALLS]",),
        ("[TOOL_CALLS]",),
        inner=("[ARGS]", "[CALL_ID]"),
        heads=(OBJECT_HEAD, call_heads.NAMED),
        short_ids=True,
        shapes=(call_shapes.MISTRAL_NAMED, call_shapes.MISTRAL),
    ),
    _tags(
        "liquid",
        (("<|tool_call_start|>", "<|tool_list_start|>"),),
        ("<|tool_call_start|>",),
        ("<|tool_call_end|>",),
        begins=_PYTHON_BEGINS,
        readers=(read_python_calls, read_json_calls),
        shapes=(call_shapes.LIQUID,),
    ),
    _tags(
        "olmo",
        ("<function_calls>",),
        ("<function_calls>",),
        ("</function_calls>",),
        begins=_PYTHON_BEGINS,
        readers=(read_python_calls, read_json_calls),
        shapes=(call_shapes.OLMO,),
    ),
    CallFormat(
        "phi", ("<|tool_call|>", "<|/tool_call|>"), ("<|tool_call|>",), ("<|/tool_call|>",), shapes=(call_shapes.PHI,)
    ),
    CallFormat(
        "granite",
        ("<|tool_call|>",),
        ("<|tool_call|>", "<tool_call>"),
        ("</tool_call>",),
        shapes=(call_shapes.GRANITE,),
    ),
    CallFormat("apriel", ("<tool_calls>[",), ("<tool_calls>",), ("</tool_calls>",), shapes=(call_shapes.APRIEL,)),
    CallFormat(
        "tool-calls", ("<tool_calls>",), ("<tool_calls>",), ("</tool_calls>",), shapes=(call_shapes.TOOL_CALLS,)
    ),
    CallFormat("hermes", ("<tool_call>",), ("<tool_call>",), ("</tool_call>",)),
    CallFormat(
        "llama-python",
        ("<|python_start|>",),
        ("<|python_start|>",),
        ("<|python_end|>",),
        readers=(read_json_calls, read_python_calls),
        bare=True,
        shapes=(call_shapes.LLAMA,),
    ),
    CallFormat(
        "llama",
        (("<|python_tag|>", "Environment: ipython"),),
        ("<|python_tag|>", "<function="),
        ("</function>",),
        heads=(OBJECT_HEAD, call_heads.FUNCTION),
        readers=(read_json_calls, read_python_calls),
        bare=True,
        shapes=(call_shapes.LLAMA,),
    ),
)
