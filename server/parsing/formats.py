"""How model families write reasoning and tool calls: a table of each. Data, chosen by what a checkpoint itself shows.

A family is never known by its name: a row is taken when the chat template or the vocabulary holds its signs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from server.parsing import call_shapes
from server.parsing.call_shapes import CallShape
from server.parsing.json_calls import OBJECT_HEAD, OBJECT_TAIL, read_json_calls
from server.parsing.literal_calls import read_braced_calls, read_python_calls
from server.parsing.piece import Call
from server.parsing.tagged_calls import Schemas, read_function_tags, read_invoke_tags, read_keyed_tags

Reader = Callable[[str, Schemas], list[Call] | None]


@dataclass(frozen=True, slots=True)
class ThinkingFormat:
    """How reasoning is set apart.

    begin, end: around it; the end in the template, or as a token of the vocabulary, is the format's sign
    silent: markers of the content that are no part of it; they have to be in the template
    """

    begin: str
    end: str
    silent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How tool calls are written.

    signs: each of them, or one of alternatives in a tuple, is in the template or a token of the vocabulary
    opens, closes: around one or several calls; without closes a stretch goes on until the next one or the end
    inner: further control tokens within
    heads: what stands before arguments that are JSON, with the group `name`; these are passed on as they come
    tail: what may stand behind the last of them
    readers: for calls that have to be read as a whole, in this order
    bare: calls may stand without a marker at the beginning of the content, for known functions
    short_ids: the template takes call ids of 9 letters and digits only
    shapes: how a model writes calls that has to; one of those that it has the tokens for
    """

    name: str
    signs: tuple[str | tuple[str, ...], ...]
    opens: tuple[str, ...]
    closes: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    heads: tuple[re.Pattern[str], ...] = (OBJECT_HEAD,)
    tail: re.Pattern[str] = OBJECT_TAIL
    readers: tuple[Reader, ...] = (read_json_calls,)
    bare: bool = False
    short_ids: bool = False
    shapes: tuple[CallShape, ...] = (call_shapes.TAGGED_OBJECT,)


_NAME = r"(?P<name>[^\s{\[<\"]{1,256}+)"
_NAMED_HEAD = re.compile(rf"\s*+{_NAME}(?:\[CALL_ID\]\w{{0,64}}+)?(?:\[ARGS\])?\s*+(?=\{{)")
_FUNCTION_HEAD = re.compile(r"(?P<name>[^>\s{\[]{1,256}+)>\s*+(?=\{)")
_DEEPSEEK_HEAD = re.compile(
    r"[\s`]*+(?:<｜tool▁call▁end｜>)?+\s*+<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?"
    r"(?P<name>[^<\s]{1,256}+)(?:<｜tool▁sep｜>)?+\s*+(?:```(?:json)?+)?+\s*+(?=\{)"
)
_DEEPSEEK_TAIL = re.compile(r"[\s`]*+(?:<｜tool▁call▁end｜>)?+\s*+")
_KIMI_HEAD = re.compile(
    r"\s*+(?:<\|tool_call_end\|>)?+\s*+<\|tool_call_begin\|>\s*+(?:functions\.)?+"
    r"(?P<name>[^:<\s]{1,256}+)(?::\d++)?+\s*+<\|tool_call_argument_begin\|>\s*+(?=\{)"
)
_KIMI_TAIL = re.compile(r"\s*+(?:<\|tool_call_end\|>)?+\s*+")

THINKING_FORMATS = (
    ThinkingFormat("<think>", "</think>", silent=("<response>", "</response>")),
    ThinkingFormat("<think>", "</think>"),
    ThinkingFormat("[THINK]", "[/THINK]"),
    ThinkingFormat("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkingFormat("<|channel>thought", "<channel|>"),
    ThinkingFormat("<seed:think>", "</seed:think>"),
    ThinkingFormat("◁think▷", "◁/think▷"),
    ThinkingFormat("<|begin_of_thought|>", "<|end_of_thought|>"),
    ThinkingFormat("<reasoning>", "</reasoning>"),
    ThinkingFormat("Here is my thought process:", "Here is my response:"),
)

GENERIC = CallFormat("generic", (), ("<tool_call>",), ("</tool_call>",), bare=True)

# From the most telling signs to the least; the first row whose signs are all there is taken.
CALL_FORMATS = (
    CallFormat(
        "deepseek-dsml",
        ("｜DSML｜",),
        ("<｜DSML｜function_calls>",),
        ("</｜DSML｜function_calls>",),
        inner=("｜DSML｜",),
        heads=(),
        readers=(read_invoke_tags,),
        shapes=(call_shapes.DEEPSEEK_DSML,),
    ),
    CallFormat(
        "deepseek",
        ("<｜tool▁calls▁begin｜>",),
        ("<｜tool▁calls▁begin｜>",),
        ("<｜tool▁calls▁end｜>",),
        inner=("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
        heads=(_DEEPSEEK_HEAD,),
        tail=_DEEPSEEK_TAIL,
        shapes=(call_shapes.DEEPSEEK, call_shapes.DEEPSEEK_FENCED),
    ),
    CallFormat(
        "kimi",
        ("<|tool_calls_section_begin|>",),
        ("<|tool_calls_section_begin|>",),
        ("<|tool_calls_section_end|>",),
        inner=("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
        heads=(_KIMI_HEAD,),
        tail=_KIMI_TAIL,
        shapes=(call_shapes.KIMI,),
    ),
    CallFormat(
        "minimax",
        ("<minimax:tool_call>",),
        ("<minimax:tool_call>",),
        ("</minimax:tool_call>",),
        heads=(),
        readers=(read_invoke_tags,),
        shapes=(call_shapes.MINIMAX,),
    ),
    CallFormat(
        "glm",
        ("<arg_key>", "<tool_call>"),
        ("<tool_call>",),
        ("</tool_call>",),
        inner=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        heads=(),
        readers=(read_keyed_tags, read_json_calls),
        shapes=(call_shapes.GLM,),
    ),
    CallFormat(
        "qwen-coder",
        ("<function=", "<parameter="),
        ("<tool_call>", "<function="),
        ("</tool_call>",),
        heads=(),
        readers=(read_function_tags, read_json_calls),
        shapes=(call_shapes.QWEN_CODER,),
    ),
    CallFormat(
        "gemma",
        ("<|tool_call>",),
        ("<|tool_call>",),
        ("<tool_call|>",),
        inner=('<|"|>',),
        heads=(),
        readers=(read_braced_calls,),
        shapes=(call_shapes.GEMMA,),
    ),
    CallFormat(
        "function-gemma",
        ("<start_function_call>",),
        ("<start_function_call>",),
        ("<end_function_call>",),
        inner=("<escape>",),
        heads=(),
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
        "mistral",
        ("[TOOL_CALLS]",),
        ("[TOOL_CALLS]",),
        inner=("[ARGS]", "[CALL_ID]"),
        heads=(OBJECT_HEAD, _NAMED_HEAD),
        short_ids=True,
        shapes=(call_shapes.MISTRAL_NAMED, call_shapes.MISTRAL),
    ),
    CallFormat(
        "liquid",
        ("<|tool_call_start|>",),
        ("<|tool_call_start|>",),
        ("<|tool_call_end|>",),
        heads=(),
        readers=(read_python_calls, read_json_calls),
        shapes=(call_shapes.LIQUID,),
    ),
    CallFormat(
        "olmo",
        ("<function_calls>",),
        ("<function_calls>",),
        ("</function_calls>",),
        heads=(),
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
    CallFormat("hermes", ("<tool_call>",), ("<tool_call>",), ("</tool_call>",)),
    CallFormat(
        "llama",
        ("<|python_tag|>",),
        ("<|python_tag|>", "<function="),
        ("</function>",),
        heads=(OBJECT_HEAD, _FUNCTION_HEAD),
        readers=(read_json_calls, read_python_calls),
        bare=True,
        shapes=(call_shapes.LLAMA,),
    ),
)
