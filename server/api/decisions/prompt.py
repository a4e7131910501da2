"""Questions of /decisions as prompts that end where a label comes as the answer. Knows words; no probabilities."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from string import ascii_uppercase
from typing import Any

from engine.text.tokenizer import Tokenizer
from server.api.chat.as_chat import as_chat, text_of
from server.api.chat.prompt import ReplyRules, encode_conversation
from server.api.decisions.schemas import ChoiceQuestion, DecisionRequest, Predicate, ScoreQuestion
from server.api.responses.prompt import conversation_messages
from server.errors import InvalidRequest
from server.models.text import ModelText
from server.wire.sampling import SamplingFields

Item = dict[str, Any]
Question = Predicate | ChoiceQuestion | ScoreQuestion
# How models spell the two answers to a statement when they answer it with one word.
_TRUE_OR_FALSE = (("Yes", " Yes", "yes", " yes"), ("No", " No", "no", " no"))
_HARMONY_ANSWER = "<|channel|>final<|message|>"


@dataclass(frozen=True, slots=True)
class EncodedQuestion:
    """A question as the prompt of the model.

    labels: for each possible answer, the ids of the tokens that spell it
    """

    prompt: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]


def ask(text: ModelText, body: DecisionRequest) -> list[EncodedQuestion]:
    """All questions of a request. Raises InvalidRequest and TemplateFailed. Takes a while: not for the event loop."""
    messages = _messages(body.input)
    return [_asked(text, messages, question, f"questions[{index}]") for index, question in enumerate(body.questions)]


def _asked(text: ModelText, messages: Sequence[Item], question: Question, param: str) -> EncodedQuestion:
    instructions = _text(question.instructions, f"{param}.instructions")
    if isinstance(question, Predicate):
        labels = tuple(_ids(text.tokenizer, spellings) for spellings in _TRUE_OR_FALSE)
        if all(labels):
            words = f"Statement: {instructions}\n\nIs the statement true? Answer with Yes or No."
            return EncodedQuestion(_prompt(text, messages, words), labels)
        options = ["true", "false"]
        instructions = f"Is this statement true?\n{instructions}"
    elif isinstance(question, ChoiceQuestion):
        options = [_described(_spelled(each.value), each.description) for each in question.choices]
    else:
        options = [_described(each.label, each.description) for each in question.levels]
    letters = list(islice(_letters(text.tokenizer), len(options)))
    if len(letters) < len(options):
        raise InvalidRequest(f"{param} has more options than this model has letters for: {len(letters)}.", param=param)
    lines = [f"{letter}. {option}" for (letter, _), option in zip(letters, options, strict=True)]
    words = "\n".join([instructions, "", *lines, "", "Answer with the letter alone."])
    return EncodedQuestion(_prompt(text, messages, words), tuple(ids for _, ids in letters))


def _prompt(text: ModelText, messages: Sequence[Item], question: str) -> tuple[int, ...]:
    """The input and a question, up to where the answer's first token comes."""
    last = messages[-1]
    if last["role"] == "user":
        told = [*messages[:-1], {**last, "content": f"{last['content']}\n\n{question}"}]
    else:
        told = [*messages, {"role": "user", "content": question}]
    chat = as_chat(SamplingFields(), "input", {"messages": told, "reasoning_effort": "none"})
    prompt = encode_conversation(text, chat)
    return prompt + _skipped_thought(text, ReplyRules(text, chat, prompt))


def _skipped_thought(text: ModelText, rules: ReplyRules) -> tuple[int, ...]:
    """The tokens that close a thought that the template has opened, or name the channel of the answer."""
    close = ""
    if text.replies.is_harmony:
        close = _HARMONY_ANSWER
    elif text.chat_template is not None and text.replies.thinking is not None and rules.has_begun_to_think:
        close = f"{text.replies.thinking.end}\n\n"
    return tuple(text.tokenizer.encode(close, add_special_tokens=False, parse_special=True)) if close else ()


def _messages(given: str | Sequence[Item]) -> list[Item]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    items = [_plain(item, f"input[{index}]") for index, item in enumerate(given)]
    called = {item.get("call_id") for item in items if str(item.get("type")).endswith("_call")}
    for index, item in enumerate(items):
        if str(item.get("type")).endswith("_call_output") and item.get("call_id") not in called:
            raise InvalidRequest(f"input[{index}].call_id is not the id of a call.", param=f"input[{index}].call_id")
    messages = conversation_messages(items)
    if not messages:
        raise InvalidRequest("input holds nothing to ask about.", param="input")
    return messages


def _plain(item: Item, param: str) -> Item:
    """The item with JSON in its content as text."""
    content = item.get("content")
    if not isinstance(content, list):
        return item
    return {**item, "content": [_part(part, f"{param}.content[{index}]") for index, part in enumerate(content)]}


def _part(part: Any, param: str) -> Any:
    if not isinstance(part, dict) or part.get("type") != "input_json":
        return part
    if not isinstance(part.get("data"), dict | list):
        raise InvalidRequest(f"{param}.data must be an object or a list of objects.", param=f"{param}.data")
    return {"type": "input_text", "text": json.dumps(part["data"], ensure_ascii=False)}


def _text(instructions: str | list[Item], param: str) -> str:
    if isinstance(instructions, str):
        return instructions
    return text_of([_part(part, f"{param}[{index}]") for index, part in enumerate(instructions)], param)


def _described(label: str, description: str) -> str:
    return f"{label}: {description}" if description else label


def _spelled(value: str | bool) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _letters(tokenizer: Tokenizer) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A, B, and so on, then pairs of letters: those that are tokens, with or without a space before them."""
    pairs = ("".join(pair) for pair in product(ascii_uppercase, repeat=2))
    for letter in (*ascii_uppercase, *pairs):
        if ids := _ids(tokenizer, (letter, f" {letter}")):
            yield letter, ids


def _ids(tokenizer: Tokenizer, spellings: Iterable[str]) -> tuple[int, ...]:
    """The tokens that are one of these spellings."""
    encoded = [tokenizer.encode(each, add_special_tokens=False, parse_special=False) for each in spellings]
    return tuple(dict.fromkeys(ids[0] for ids in encoded if len(ids) == 1))
