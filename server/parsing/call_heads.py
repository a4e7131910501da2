"""The text before and behind arguments that are JSON, family by family. Patterns; all repetitions are possessive."""

import re

_FENCED = r"(?:```(?:json)?+)?+\s*+(?=\{)"

# `f[ARGS]{}`; no name begins like the end of a list or a fence.
NAMED = re.compile(
    r"\s*+(?P<name>[^\s{}\[\]<\"`,;][^\s{\[<\"]{0,255}+)(?:\[CALL_ID\]\w{0,64}+)?(?:\[ARGS\])?\s*+(?=\{)"
)
FUNCTION = re.compile(r"(?P<name>[^>\s{\[]{1,256}+)>\s*+(?=\{)")
DEEPSEEK = re.compile(
    r"[\s`]*+(?:<｜tool▁call▁end｜>)?+\s*+<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?"
    rf"(?P<name>[^<\s]{{1,256}}+)(?:<｜tool▁sep｜>)?+\s*+{_FENCED}"
)
DEEPSEEK_TAIL = re.compile(r"[\s`]*+(?:<｜tool▁call▁end｜>)?+\s*+")
KIMI = re.compile(
    r"\s*+(?:<\|tool_call_end\|>)?+\s*+<\|tool_call_begin\|>\s*+(?:functions\.)?+"
    r"(?P<name>[^:<\s]{1,256}+)(?::\d++)?+\s*+<\|tool_call_argument_begin\|>\s*+(?=\{)"
)
KIMI_TAIL = re.compile(r"\s*+(?:<\|tool_call_end\|>)?+\s*+")
SOLAR = re.compile(
    r"\s*+(?:<\|tool_call:end\|>)?+\s*+<\|tool_call:begin\|>[^<]{0,256}+<\|tool_call:name\|>"
    r"\s*+(?P<name>[^<\s]{1,256}+)\s*+<\|tool_call:args\|>\s*+(?=\{)"
)
SOLAR_TAIL = re.compile(r"\s*+(?:<\|tool_call:end\|>)?+\s*+")
RECIPIENT = re.compile(r"(?P<name>[^\s<>{\[]{1,256}+)\n\s*+(?=\{)")
