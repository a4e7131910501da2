"""The grammar of one request's answer: reasoning where there is any, then what was asked for. Knows formats; no tokens
but special ones."""

from dataclasses import dataclass
from typing import Literal

from engine.sampling.params import Grammar
from server.call_rules import CallRules, has_tokens, text_without
from server.parsing.call_shapes import HARMONY
from server.registry import ModelText
from server.schemas.tools import Tool
from server.structure import Structure, quoted

# Whether the prompt has begun the reasoning; whether the model may begin it; or whether there is none.
Thinking = Literal["begun", "possible", "none"]
_ANY_TEXT = "/(?s:.*)/"
_BETWEEN = '("\\n" | " "){0,2}'  # what models put between reasoning and answer


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer is to be.

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
    """Of an answer without reasoning and calls."""
    if structure is None:
        return None
    parts = () if structure.part is None else (("asked", structure.part),)
    return Grammar(f"start: {_lead(text)} ({structure.rule})", structure.param, parts)


def reply_grammar(text: ModelText, wanted: Wanted) -> Grammar | None:
    """None where any text will do. Raises GrammarInvalid."""
    special = {spelling: token_id for token_id, spelling in text.tokenizer.special_tokens()}
    answers: list[str] = []
    rules: list[str] = []
    calls = _call_rules(text, wanted, special) if wanted.tools else None
    if calls is not None and (wanted.must_call or wanted.structure is not None):
        answers.append("calls")
        rules += calls.rules
    if wanted.structure is not None and not wanted.must_call:
        answers.append("answer")
        rules.append(f"answer: {_final(text, special)} ({wanted.structure.rule})")
    budgeted = wanted.thinking_budget is not None and wanted.thinking != "none" and not text.replies.is_harmony
    if not answers and not budgeted:
        return None
    if not answers:
        answers.append("anything")
        rules += ["anything: (ANY_TEXT | <[*]>)*", "ANY_TEXT: /(?s:.+)/"]
    before, more = _before(text, wanted, special)
    param = "tools" if wanted.must_call else wanted.structure.param if wanted.structure else "thinking_token_budget"
    part = wanted.structure.part if wanted.structure and not wanted.must_call else None
    lark = "\n".join([f"start: {before} ({' | '.join(answers)})", *more, *rules])
    return Grammar(lark, param, () if part is None else (("asked", part),))


def _call_rules(text: ModelText, wanted: Wanted, special: dict[str, int]) -> CallRules:
    replies = text.replies
    all_shapes = (HARMONY,) if replies.is_harmony else replies.calls.shapes
    shapes = [each for each in all_shapes if has_tokens(each, text.tokenizer.token_id)]
    return CallRules(shapes, wanted.tools or (), special, only_one=wanted.only_one_call)


def _final(text: ModelText, special: dict[str, int]) -> str:
    """What stands before an answer that is no call."""
    if text.replies.is_harmony:
        return f'{_mark("<|channel|>", special)} "final" {_mark("<|message|>", special)}'
    return _lead(text)


def _lead(text: ModelText) -> str:
    """In some vocabularies a text begins with a space, which decoding removes."""
    return '" "?' if text.defaults.reads_source and text.tokenizer.leading_space else ""


def _before(text: ModelText, wanted: Wanted, special: dict[str, int]) -> tuple[str, list[str]]:
    """The reasoning, with the marks around it, and the rules that it needs."""
    if text.replies.is_harmony:
        return _harmony_reasoning(special), [f"thinking: {_ANY_TEXT}"]
    format_ = text.replies.thinking
    if format_ is None or wanted.thinking == "none":
        return "", []
    limit = "" if wanted.thinking_budget is None else f"[max_tokens={wanted.thinking_budget}]"
    is_special = format_.end in special
    # Without a limit, the text up to its end is one lexeme, which is found soonest.
    if is_special or limit:
        end = _mark(format_.end, special)
        pattern = _ANY_TEXT if is_special else f"{text_without(format_.end, is_special=False)}"
        inside = "thinking" if is_special else "thinking?"
        rules = [f"thinking{limit}: THOUGHT", f"THOUGHT: {pattern}"]
        whole = f"{inside} {end} {_BETWEEN}"
    else:
        rules = [f"thinking[suffix={quoted(format_.end, 'thinking')}]: {_ANY_TEXT}"]
        whole = f"thinking {_BETWEEN}"
    if wanted.thinking == "possible":
        whole = f"({_mark(format_.begin, special)} {whole})?"
    return whole, rules


def _harmony_reasoning(special: dict[str, int]) -> str:
    channel, message, end, start = (
        _mark(each, special) for each in ("<|channel|>", "<|message|>", "<|end|>", "<|start|>")
    )
    return f'({channel} "analysis" {message} thinking {end} {start} "assistant")?'


def _mark(spelling: str, special: dict[str, int]) -> str:
    return f"<[{special[spelling]}]>" if spelling in special else quoted(spelling, "thinking")
