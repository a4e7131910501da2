"""A conversation as a model's prompt, and how its reply is to be read. Knows templates and formats; no HTTP."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from engine.errors import TemplateFailed
from engine.sampling.params import Grammar
from engine.text.chat import encode_chat
from engine.text.template_habits import JsonObject
from server.api.chat.schemas import ChatCompletionRequest, ChatMessage, ConversationFields, ToolCall
from server.api.shared.sampling import sampling_params, text_rules
from server.errors import InvalidRequest
from server.generation.generation import GenerationPlan
from server.generation.reply_grammar import ReplyConstraints, Thinking, reply_grammar
from server.generation.structure import structure_of
from server.models.text import ModelText
from server.parsing.choose import Parser, ReplyFormat, needed_ids
from server.parsing.in_words import with_tools_in_words
from server.wire.base import HALF_A_PAIR
from server.wire.tools import Tool

if TYPE_CHECKING:  # the server answers before Jinja is loaded
    from engine.text.chat import Template

_TAIL_TOKENS = 16
_SHORT_ID_LENGTH = 9
# Families that know fewer words for it.
_HARMONY_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}


def chat_plan(text: ModelText, body: ChatCompletionRequest, default_max_tokens: int | None) -> GenerationPlan:
    """The plan of the reply to a conversation. Raises TemplateFailed. Takes a while: not for the event loop."""
    prompt = encode_conversation(text, body)
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if max_tokens is None:
        max_tokens = text.defaults.max_new_tokens or default_max_tokens
    rules = ReplyRules(text, body, prompt)
    return GenerationPlan(
        prompts=(prompt,),
        num_choices=body.n,
        sampling=sampling_params(
            body,
            text,
            max_tokens=max_tokens,
            logprobs=body.top_logprobs if body.logprobs else None,
            grammar=rules.grammar(),
        ),
        rules=text_rules(body, kept_ids=rules.kept_ids(), max_calls=None if body.several_calls else 1),
        param=body.called("messages"),
        priority=body.priority,
        parser=rules.parser,
    )


@dataclass(frozen=True, slots=True)
class ReplyRules:
    """The parser, the grammar and the special tokens that the reply to one request needs."""

    text: ModelText
    body: ChatCompletionRequest
    prompt: tuple[int, ...]

    def parser(self) -> Parser | None:
        """A parser for one choice; None where there is nothing to look for."""
        if self.text.chat_template is None:
            return None
        return self.text.replies.parser(
            self._schemas(),
            thinks=self._thinks(),
            is_thinking=self._is_thinking(),
            must_call=bool(self.body.forced_tools),
        )

    def grammar(self) -> Grammar | None:
        """The form that the reply has to have. Raises GrammarInvalid and InvalidRequest."""
        body = self.body
        forced = body.forced_tools
        constraints = ReplyConstraints(
            structure_of(body),
            tuple(forced or body.offered_tools),
            must_call=bool(forced),
            only_one_call=not body.several_calls,
            thinking=self._thinking(),
            thinking_budget=body.thinking_token_budget,
        )
        return reply_grammar(self.text, constraints)

    def _thinking(self) -> Thinking:
        thinking = self.text.replies.thinking
        if thinking is None or self.text.chat_template is None:
            return "none"
        if self._is_thinking():
            return "begun"
        is_over = thinking.end in self._tail() or self.body.continue_final_message
        return "none" if is_over else "possible"

    def _tail(self) -> str:
        return self.text.tokenizer.decode(self.prompt[-_TAIL_TOKENS:], skip_special_tokens=False)

    def kept_ids(self) -> frozenset[int]:
        """Special tokens that the parser has to see, or the client, where reasoning stays in the text."""
        if self.text.chat_template is None:
            return frozenset()
        markers = self.text.replies.markers(calls=bool(self.body.offered_tools))
        return needed_ids(markers, self.text.tokenizer.special_tokens())

    @property
    def has_begun_to_think(self) -> bool:
        """Whether the prompt ends inside of reasoning."""
        return self._is_thinking()

    def _schemas(self) -> dict[str, dict[str, Any]] | None:
        tools = self.body.offered_tools
        return {tool.function.name: tool.function.parameters for tool in tools} if tools else None

    def _thinks(self) -> bool:
        return self.body.reasoning_format != "none"

    def _is_thinking(self) -> bool:
        """Whether the prompt ends inside of reasoning: the template opened it, or the message that is continued."""
        thinking = self.text.replies.thinking
        if thinking is None:
            return False
        if self.body.continue_final_message:
            content = self.body.messages[-1].content.lstrip()
            return content.startswith(thinking.begin) and thinking.end not in content
        return self._tail().rstrip().endswith(thinking.begin)


def encode_conversation(text: ModelText, body: ConversationFields) -> tuple[int, ...]:
    """The conversation as the model was taught to read it. Raises TemplateFailed."""
    if text.chat_template is None and text.defaults.reads_source:
        return encode_source(text, body)
    messages, options = _template_arguments(text, body)
    ids = encode_chat(_template(text), text.tokenizer, messages, **options)
    if not ids:
        raise TemplateFailed("The chat template made an empty prompt of these messages.")
    return tuple(ids)


def render_conversation(text: ModelText, body: ConversationFields) -> str:
    """The conversation as text, in which control tokens and the words of people look alike. Raises TemplateFailed."""
    messages, options = _template_arguments(text, body)
    return _template(text).render(messages, **options)


def _template(text: ModelText) -> "Template":
    if text.chat_template is None:
        raise TemplateFailed("This model has no chat template; use /v1/completions.")
    return text.chat_template


def _template_arguments(text: ModelText, body: ConversationFields) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    messages = template_messages(body.messages, text.replies)
    tools = [template_tool(tool) for tool in body.offered_tools]
    if not text.replies.renders_tools:
        messages, tools = with_tools_in_words(messages, tools), []
    return messages, {
        "tools": tools or None,
        "add_generation_prompt": body.add_generation_prompt and not body.continue_final_message,
        "continue_final_message": body.continue_final_message,
        "variables": template_variables(body, text.replies),
    }


def encode_source(text: ModelText, body: ConversationFields) -> tuple[int, ...]:
    """The source of an encoder-decoder model: system messages and the last message of the user, a line each.

    Such models answer one text with another: earlier turns are no part of what they were trained on.
    """
    if body.offered_tools:
        raise InvalidRequest("tools are not for this model: it rewrites texts and calls nothing.", param="tools")
    instructions = [message.content for message in body.messages if message.role in ("system", "developer")]
    asked = [message.content for message in body.messages if message.role == "user"]
    if not asked:
        raise InvalidRequest(
            "messages must hold a message of the user: this model rewrites its text.", param="messages"
        )
    source = "\n".join([*filter(None, instructions), asked[-1]])
    return tuple(text.tokenizer.encode(source, parse_special=False))


def template_messages(messages: Sequence[ChatMessage], replies: ReplyFormat) -> list[dict[str, Any]]:
    """Messages as templates expect them; a tool's message has the name of the function that was called."""
    shorten = _short_id if replies.calls.short_ids and not replies.is_harmony else str
    names: dict[str, str] = {}
    told = []
    for message in messages:
        names |= {call.id: call.function.name for call in message.tool_calls if call.id}
        name = message.name or names.get(message.tool_call_id or "")
        told.append(template_message(message, name, shorten))
    return told


def template_message(message: ChatMessage, name: str | None, shorten: Callable[[str], str] = str) -> dict[str, Any]:
    """A message as templates expect it: `developer` is `system`, arguments of calls are objects, no content is null.

    shorten: makes an id that the template takes of a call's id
    """
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    reasoning = message.reasoning_content or message.reasoning
    optional = {
        "name": name,
        "reasoning_content": reasoning,
        "thinking": reasoning if message.tool_calls and not message.content else None,
        "tool_call_id": message.tool_call_id and shorten(message.tool_call_id),
        "tool_calls": [_template_call(call, shorten) for call in message.tool_calls],
    }
    is_null = bool(message.tool_calls) and "content" not in message.model_fields_set
    content = None if is_null else message.content
    return {"role": role, "content": content, **{name: value for name, value in optional.items() if value}}


def _template_call(call: ToolCall, shorten: Callable[[str], str]) -> dict[str, Any]:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):  # what a model once wrote is shown to it as it is
            value = _whole_characters(json.loads(arguments or "{}"))
            arguments = JsonObject(value, arguments) if isinstance(value, dict) else value
    elif not isinstance(arguments, JsonObject):
        arguments = JsonObject(arguments)
    call_id = shorten(call.id) if call.id else call.id
    return {"id": call_id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def _whole_characters(value: Any) -> Any:
    """Parsed JSON in which halves of surrogate pairs, as models write where they are cut, are replaced."""
    if isinstance(value, str):
        return HALF_A_PAIR.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(each) for key, each in value.items()}
    return [_whole_characters(each) for each in value] if isinstance(value, list) else value


def _short_id(call_id: str) -> str:
    """The id itself where it is one of 9 letters and digits, else one made of it."""
    if len(call_id) == _SHORT_ID_LENGTH and call_id.isascii() and call_id.isalnum():
        return call_id
    return blake2b(call_id.encode()).hexdigest()[:_SHORT_ID_LENGTH]


def template_tool(tool: Tool) -> dict[str, Any]:
    """A function as templates expect it."""
    function = tool.function
    return {
        "type": "function",
        "function": {
            "name": function.name,
            "description": function.description,
            "parameters": function.parameters,
        },
    }


def template_variables(body: ConversationFields, replies: ReplyFormat) -> Mapping[str, Any]:
    """The variables of the template besides messages; whether and how much to think has several spellings."""
    effort = body.reasoning_effort or (body.reasoning.effort if body.reasoning else None)
    off = effort == "none" or (body.reasoning is not None and not body.reasoning.enabled)
    thinking: dict[str, Any] = {}
    if off:
        thinking = {"enable_thinking": False, "thinking": False}
    elif effort:
        known = _HARMONY_EFFORTS.get(effort, effort) if replies.is_harmony else effort
        thinking = {"reasoning_effort": known, "enable_thinking": True, "thinking": True}
    return {**thinking, **body.chat_template_kwargs}
