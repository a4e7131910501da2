"""Render messages with a model's chat template, in a sandbox. Knows no tokens."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import TemplateFailed
from engine.text.template_habits import TemplateHabits, adapted, fitted, habits_of, merged, unused_mark

MAX_RENDERED_CHARACTERS = 32 << 20
_MAX_EXPONENT = 64
_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "tokenize"})
_NO_FINAL_MESSAGE = "continue_final_message needs a final message whose text the chat template shows."
Message = Mapping[str, Any]


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; rendering passes its body on."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own way to declare it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which forbids changes and private attributes; products and powers are bounded too."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse a product or a power whose result could fill the memory."""
        if operator == "**":
            small = isinstance(left, int | float) and isinstance(right, int | float) and abs(right) <= _MAX_EXPONENT
        else:
            small = all(
                _length(each) * _count(other) <= MAX_RENDERED_CHARACTERS
                for each, other in ((left, right), (right, left))
            )
        if not small:
            raise SecurityError(f"the result of {operator} would be too large")
        return super().call_binop(context, operator, left, right)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _count(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 1


class ChatTemplate:
    """A compiled template.

    special_tokens: what it may name, such as bos_token and eos_token
    tool_source: a second template, for requests with tools
    sources: the text of both, which tells how the model writes
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], *, tool_source: str | None = None) -> None:
        environment = _environment()
        self.sources: tuple[str, ...] = (source,) if tool_source is None else (source, tool_source)
        self._template = _compile(environment, source)
        self._tool_template = self._template if tool_source is None else _compile(environment, tool_source)
        self._special_tokens = special_tokens
        self._habits: dict[bool, TemplateHabits] = {}

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The messages as the model was taught to read them, in a form that the template shows whole.

        variables: further names for the template; those it is given anyway are refused
        Raises TemplateFailed with the template's own reason when it refuses the messages.
        """
        variables = variables or {}
        if _RESERVED & variables.keys():
            raise TemplateFailed(f"chat_template_kwargs may not set {min(_RESERVED & variables.keys())}.")
        habits = self.habits(with_tools=bool(tools))
        given = adapted(messages, habits)
        render = partial(self._render, tools, variables, add_generation_prompt, continue_final_message)
        try:
            return render(fitted(given, habits))
        except TemplateFailed:
            strictest = merged(given, habits)
            if strictest == fitted(given, habits):
                raise
            with suppress(TemplateFailed):  # of the form that was given, the reason is told
                return render(strictest)
            raise

    def habits(self, *, with_tools: bool) -> TemplateHabits:
        """The conversations that the template shows. Asked once, which renders some short ones."""
        if with_tools not in self._habits:
            self._habits[with_tools] = habits_of(
                lambda messages, tools: self._render(tools, {}, True, False, messages), with_tools=with_tools
            )
        return self._habits[with_tools]

    def _render(
        self,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
        add_generation_prompt: bool,
        continue_final_message: bool,
        messages: Sequence[Message],
    ) -> str:
        messages, mark = _with_end(messages) if continue_final_message else (messages, "")
        context = {
            **self._special_tokens,
            **variables,
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        text = _render(self._tool_template if tools else self._template, context)
        return _cut_at_end(text, mark) if mark else text

    def close(self) -> None:
        """Nothing needs to be ended: this template renders in the process that holds it."""


def _environment() -> _Sandbox:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().astimezone().strftime(pattern)
    return environment


def _compile(environment: jinja2.Environment, source: str) -> jinja2.Template:
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateFailed(f"The model's chat template has a syntax error in line {error.lineno}.") from None
    except RecursionError:
        raise TemplateFailed("The model's chat template is nested too deeply.") from None


def _render(template: jinja2.Template, context: Mapping[str, Any]) -> str:
    try:
        return "".join(_bounded(template.generate(context)))
    except jinja2.TemplateError as error:
        raise TemplateFailed(f"The chat template refused the messages: {error.message}") from None
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise TemplateFailed(f"The chat template failed on these messages ({type(error).__name__}).") from None


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > MAX_RENDERED_CHARACTERS:
            raise TemplateFailed(f"The rendered messages exceed {MAX_RENDERED_CHARACTERS} characters.")
        yield piece


def _with_end(messages: Sequence[Message]) -> tuple[list[Message], str]:
    """The messages with a mark behind the last one, and the mark: a template may write anything after its text."""
    content = messages[-1].get("content")
    if not isinstance(content, str) or not content.strip():
        raise TemplateFailed(_NO_FINAL_MESSAGE)
    mark = unused_mark(messages)
    return [*messages[:-1], {**messages[-1], "content": content + mark}], mark


def _cut_at_end(text: str, mark: str) -> str:
    before, found, _ = text.rpartition(mark)
    if not found:
        raise TemplateFailed(_NO_FINAL_MESSAGE)
    return before


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
