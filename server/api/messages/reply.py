"""Answers of /messages: blocks that open, grow and close, as events in order. Knows pieces; nothing of workers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any
from uuid import uuid4

from pydantic_core import from_json

from engine.requests import FinishReason
from server.api.messages.schemas import Message, MessageRequest, MessageUsage, StopReason
from server.api.shared.event_stream import named_event
from server.errors import envelope_of, row_of
from server.generation.continuation import Delta
from server.generation.generation import Choice
from server.http.dialects import anthropic_error
from server.parsing.piece import Piece
from server.wire.usage import Usage

Event = dict[str, Any]
Block = dict[str, Any]

_SIGNS_PER_EVENT = 12


class MessageReply:
    """One answer, streamed or whole; both are made by the same steps.

    max_tokens: as many as were asked for; fewer are the context's end. Set before the first event
    """

    num_choices = 1

    def __init__(self, body: MessageRequest, model_name: str, request_id: str) -> None:
        self.reply_id = f"msg_{uuid4().hex}"
        self._model_name = model_name
        self._request_id = request_id
        self.max_tokens = 0
        self._shows_thinking = body.thinking is None or body.thinking.display != "omitted"
        self._content: list[Block] = []
        self._open: Block | None = None
        self._text: list[str] = []
        self._finish_reason: FinishReason | None = None
        self._stop: str | None = None
        self._has_begun = False
        self._num_signs = 0

    def events(self, delta: Delta, usage: Callable[[], Usage]) -> bytes:
        """The events of one delta; before the first one, the event that begins the answer."""
        begin = b"" if self._has_begun else self._begin(usage())
        return begin + b"".join(map(named_event, self._step(delta.pieces, delta.finish_reason, delta.stop)))

    def sign(self, progress: str, usage: Usage | None) -> bytes:
        """A ping; before it, as soon as the prompt is counted, the event that begins the answer.

        Anthropic's SDKs hide pings from their programs, some of which give up after five minutes without an event: now
        and then it is counts that have not changed.
        """
        del progress
        begin = b"" if self._has_begun or usage is None else self._begin(usage)
        self._num_signs += 1
        if usage is None or self._num_signs % _SIGNS_PER_EVENT:
            return begin + named_event({"type": "ping"})
        ending = {"stop_reason": None, "stop_sequence": None}
        return begin + named_event({"type": "message_delta", "delta": ending, "usage": message_usage(usage)})

    def _begin(self, usage: Usage) -> bytes:
        self._has_begun = True
        return named_event({"type": "message_start", "message": self._message(usage)})

    def end(self, usage: Usage) -> Iterator[bytes]:
        """Why it ended, and the final counts."""
        ending = {"stop_reason": self._stop_reason(usage), "stop_sequence": self._stop_sequence()}
        yield named_event({"type": "message_delta", "delta": ending, "usage": message_usage(usage)})
        yield named_event({"type": "message_stop"})

    def failure(self, error: Exception) -> bytes:
        """The error, which ends the stream."""
        message = envelope_of(error)["error"]["message"]
        return named_event(dict(anthropic_error(row_of(error), message, self._request_id)))

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Message:
        """The answer that is not streamed."""
        choice = choices[0]
        for _ in self._step(choice.parts, choice.finish_reason, choice.stop):
            pass
        message = self._message(usage)
        return {
            **message,
            "content": self._content,
            "stop_reason": self._stop_reason(usage),
            "stop_sequence": self._stop_sequence(),
        }

    def _message(self, usage: Usage) -> Message:
        return {
            "id": self.reply_id,
            "type": "message",
            "role": "assistant",
            "model": self._model_name,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": message_usage(usage),
        }

    def _step(self, pieces: Iterable[Piece], finish_reason: FinishReason | None, stop: str | None) -> Iterator[Event]:
        for piece in pieces:
            if piece.field == "call":
                yield from self._close()
                yield self._opened({"type": "tool_use", "id": tool_use_id(), "name": piece.text, "input": {}})
            elif piece.field == "arguments":
                yield self._added("input_json_delta", "partial_json", piece.text)
            elif piece.field == "reasoning":
                yield from self._ensure({"type": "thinking", "thinking": "", "signature": ""})
                # What is not shown still is a sign of life to clients that give up on silent streams.
                yield (
                    self._added("thinking_delta", "thinking", piece.text) if self._shows_thinking else {"type": "ping"}
                )
            else:
                yield from self._ensure({"type": "text", "text": ""})
                yield self._added("text_delta", "text", piece.text)
        if finish_reason:
            self._finish_reason, self._stop = finish_reason, stop
            yield from self._close()
            if not self._content:
                yield self._opened({"type": "text", "text": ""})
                yield from self._close()

    def _ensure(self, block: Block) -> Iterator[Event]:
        if self._open is None or self._open["type"] != block["type"]:
            yield from self._close()
            yield self._opened(block)

    def _opened(self, block: Block) -> Event:
        self._open, self._text = block, []
        return {"type": "content_block_start", "index": len(self._content), "content_block": dict(block)}

    def _added(self, kind: str, key: str, text: str) -> Event:
        self._text.append(text)
        return {"type": "content_block_delta", "index": len(self._content), "delta": {"type": kind, key: text}}

    def _close(self) -> Iterator[Event]:
        block, text = self._open, "".join(self._text)
        if block is None:
            return
        index = len(self._content)
        if block["type"] == "tool_use":
            block["input"] = tool_input(text)
        elif block["type"] == "text":
            block["text"] = text
        else:
            block |= {"thinking": text, "signature": _signature(text)}
            delta = {"type": "signature_delta", "signature": block["signature"]}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        self._content.append(block)
        self._open = None
        yield {"type": "content_block_stop", "index": index}

    def _stop_reason(self, usage: Usage) -> StopReason:
        if self._finish_reason == "length":
            was_cut = usage["completion_tokens"] >= self.max_tokens
            return "max_tokens" if was_cut else "model_context_window_exceeded"
        if any(block["type"] == "tool_use" for block in self._content):
            return "tool_use"
        return "end_turn" if self._stop is None else "stop_sequence"

    def _stop_sequence(self) -> str | None:
        calls = any(block["type"] == "tool_use" for block in self._content)
        return None if calls else self._stop


def message_usage(usage: Usage) -> MessageUsage:
    """Token counts under this API's names: what was found is told apart from what was read."""
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"] - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"thinking_tokens": usage["completion_tokens_details"]["reasoning_tokens"]},
    }


def tool_input(arguments: str) -> dict[str, Any]:
    """The object that the arguments are; of those that were cut off, as much as there is.

    That is how clients read them while they arrive. What is no object at all is kept under one key.
    """
    try:
        value = from_json(arguments or "{}", allow_partial=True)
    except ValueError:
        value = arguments
    return value if isinstance(value, dict) else {"input": value}


def tool_use_id() -> str:
    """A name for a new call."""
    return f"toolu_{uuid4().hex[:24]}"


def _signature(thought: str) -> str:
    """Clients send it back unread; here nobody reads it either, but to be empty would mean that it is missing."""
    return blake2b(thought.encode(), digest_size=16).hexdigest()
