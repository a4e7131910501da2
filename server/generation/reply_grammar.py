"""The grammar of one request's answer: reasoning where there is any, then what was asked for. Knows formats; no tokens
but special ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engine.sampling.params import Grammar
from server.errors import UnsupportedParameter
from server.generation.call_rules import CallRules, has_tokens, literal, spellings, text_up_to
from server.generation.structure import Structure, quoted
from server.models.text import ModelText
from server.parsing.call_shapes import HARMONY
from server.wire.tools import Tool

# Whether the prompt has begun the reasoning; whether the model may begin it; or whether there is none.
Thinking = Literal["begun", "possible", "none"]
_BUDGET = "thinking_token_budget"
_BETWEEN = '("\\n" | " "){0,2}'  # what models put between reasoning and answer


@dataclass(frozen=True, slots=True)
class ReplyConstraints:
    """The constraints of one answer.

    tools: that must be called, or may be called instead of `structure`; None calls none
    thinking_budget: tokens of reasoning, at most; None leaves it to the model
    """

    structure: Structure | None = None
    tools: tuple[Tool, ...] | None = None
    must_call: bool = False
    only_one_call: bool = False
    thinking: Thinking = "none"
    thinking_budget: int | None = None


def plain_grammar(text: ModelText, structure: Structure | None) -> Grammar | None:
    """The grammar of an answer without reasoning and calls; None where any text will do."""
    if structure is None:
        return None
    parts = () if structure.part is None else (("asked", structure.part),)
    return Grammar(f"start: {_lead(text)} ({structure.rule})", structure.param, parts)


def reply_grammar(text: ModelText, constraints: ReplyConstraints) -> Grammar | None:
    """The grammar of an answer; None where any text will do. Raises GrammarInvalid."""
    special = text.tokenizer.marks()
    answers: list[str] = []
    rules: list[str] = []
    calls = _call_rules(text, constraints, special) if constraints.tools else None
    if calls is not None and (constraints.must_call or constraints.structure is not None):
        answers.append("calls")
        rules += calls.rules
    if constraints.structure is not None and not constraints.must_call:
        answers.append("answer")
        rules.append(f"answer: {_final(text, special)} ({constraints.structure.rule})")
    budgeted = constraints.thinking_budget is not None and (constraints.thinking != "none" or text.replies.is_harmony)
    if not answers and not budgeted:
        return None
    if not answers:
        answers.append("anything")
        rules += ["anything: (ANY_TEXT | <[*]>)*", "ANY_TEXT: /(?s:.+)/"]
    before, more = _before(text, constraints, special)
    param = "tools" if constraints.must_call else constraints.structure.param if constraints.structure else _BUDGET
    part = constraints.structure.part if constraints.structure and not constraints.must_call else None
    lark = "\n".join([f"start: {before} ({' | '.join(answers)})", *more, *rules])
    return Grammar(lark, param, () if part is None else (("asked", part),))


def _call_rules(text: ModelText, constraints: ReplyConstraints, special: Mapping[str, int]) -> CallRules:
    replies = text.replies
    all_shapes = (HARMONY,) if replies.is_harmony else replies.calls.shapes
    shapes = [each for each in all_shapes if has_tokens(each, text.tokenizer.token_id)]
    return CallRules(shapes, constraints.tools or (), special, only_one=constraints.only_one_call)


def _final(text: ModelText, special: Mapping[str, int]) -> str:
    """The rule of the text before an answer that is no call."""
    if text.replies.is_harmony:
        return f'{_mark("<|channel|>", special)} "final" {_mark("<|message|>", special)}'
    return _lead(text)


def _lead(text: ModelText) -> str:
    """In some vocabularies a text begins with a space, which decoding removes."""
    return '" "?' if text.defaults.reads_source and text.tokenizer.leading_space else ""


def _before(text: ModelText, constraints: ReplyConstraints, special: Mapping[str, int]) -> tuple[str, list[str]]:
    """The reasoning, with the marks around it, and the rules that it needs."""
    if text.replies.is_harmony:
        channel, message, start = (_mark(each, special) for each in ("<|channel|>", "<|message|>", "<|start|>"))
        rules = text_up_to("thinking", "<|end|>", special, constraints.thinking_budget)
        return f'({channel} "analysis" {message} thinking {start} "assistant")?', rules
    marks = text.replies.thinking
    if marks is None or constraints.thinking == "none":
        return "", []
    if constraints.thinking_budget is not None and marks.end not in special:
        raise UnsupportedParameter(_BUDGET, f"this model has no token for {marks.end}, which ends its reasoning")
    whole = f"thinking {_BETWEEN} {literal(marks.then, special, spellings(special))}"
    if constraints.thinking == "possible":
        whole = f"({_mark(marks.begin, special)} {whole})?"
    return whole, text_up_to("thinking", marks.end, special, constraints.thinking_budget)


def _mark(spelling: str, special: Mapping[str, int]) -> str:
    return f"<[{special[spelling]}]>" if spelling in special else quoted(spelling, "thinking")
