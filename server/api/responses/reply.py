"""Answers of /responses: items that open, grow and close, as events in order. Knows pieces; nothing of workers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from itertools import chain
from time import time
from typing import Any, cast
from uuid import uuid4

from server.api.chat.reply import call_id, chat_logprobs
from server.api.responses.schemas import Response, ResponseRequest, ResponseUsage
from server.api.responses.store import ResponseStore, StoredResponse
from server.api.responses.tools import ResponseTools, custom_input
from server.api.shared.event_stream import named_event
from server.errors import envelope_of, row_of
from server.generation.continuation import Delta, ScoredToken
from server.generation.generation import Choice
from server.parsing.piece import Piece
from server.wire.usage import Usage

Event = dict[str, Any]
Item = dict[str, Any]


class ResponseReply:
    """One answer, streamed or whole; both are made by the same steps.

    history: items of the conversation before the answer; given: those of this request
    """

    num_choices = 1

    def __init__(
        self,
        body: ResponseRequest,
        model_name: str,
        store: ResponseStore,
        history: Sequence[Item],
        given: Sequence[Item],
    ) -> None:
        self.reply_id = f"resp_{uuid4().hex}"
        self._body = body
        self._store, self._history, self._given = store, tuple(history), tuple(given)
        self._tools = ResponseTools(body.tools)
        self._sequence_number = 0
        self._open: Item | None = None
        self._text = ""
        self._tokens: list[Any] = []
        self._reason = ""
        self._answer = _begun(body, self.reply_id, model_name)

    def events(self, delta: Delta, usage: Callable[[], Usage]) -> bytes:
        """The events of one delta; before the first one, the events that begin the answer."""
        # One after the other: each event shows the answer as it is at that moment.
        steps = chain(self._begin(), self._step(delta.pieces, delta.tokens, delta.finish_reason))
        return b"".join(map(self._frame, steps))

    def sign(self, progress: str, usage: Usage | None) -> bytes:
        """That the answer is in progress, once more: clients count events, and skip comments."""
        del progress, usage
        begin = list(self._begin())
        return b"".join(map(self._frame, begin or [{"type": "response.in_progress", "response": self._answer}]))

    def end(self, usage: Usage) -> Iterator[bytes]:
        """The whole answer once more."""
        self._finish(usage)
        yield self._frame({"type": f"response.{self._answer['status']}", "response": self._answer})

    def failure(self, error: Exception) -> bytes:
        """The answer as far as it came, with the error."""
        begin = b"".join(map(self._frame, self._begin()))
        self._answer["status"] = "failed"
        self._answer["error"] = {"code": _failure_code(error), "message": envelope_of(error)["error"]["message"]}
        return begin + self._frame({"type": "response.failed", "response": self._answer})

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Response:
        """The answer that is not streamed."""
        choice = choices[0]
        for _ in self._step(choice.parts, choice.tokens, choice.finish_reason):
            pass
        self._finish(usage)
        return self._answer

    def _frame(self, event: Event) -> bytes:
        number = self._sequence_number
        self._sequence_number += 1
        return named_event({**event, "sequence_number": number})

    def _begin(self) -> Iterator[Event]:
        """The events that begin the answer, unless it has begun."""
        if not self._sequence_number:
            for name in ("created", "in_progress"):
                yield {"type": f"response.{name}", "response": self._answer}

    def _finish(self, usage: Usage) -> None:
        self._answer["status"] = "incomplete" if self._reason == "length" else "completed"
        if self._reason == "length":
            self._answer["incomplete_details"] = {"reason": "max_output_tokens"}
        self._answer["completed_at"] = int(time()) if self._reason != "length" else None
        self._answer["usage"] = response_usage(usage)
        if self._body.store:
            history = (*self._history, *self._answer["output"])
            self._store.put(StoredResponse(cast("dict[str, Any]", self._answer), self._given, history))

    def _step(
        self, pieces: Iterable[Piece], tokens: Sequence[ScoredToken], finish_reason: str | None
    ) -> Iterator[Event]:
        entries = chat_logprobs(tokens)["content"]
        for piece in pieces:
            if piece.field == "call":
                yield from self._close()
                yield from self._open_call(piece.text)
            elif piece.field == "arguments":
                yield from self._add_arguments(piece.text)
            else:
                kind = "reasoning" if piece.field == "reasoning" else "message"
                if self._open is None or self._open["type"] != kind:
                    yield from self._close()
                    yield from self._open_text(kind)
                own, entries = (entries, []) if kind == "message" else ([], entries)
                yield from self._add_text(piece.text, own)
        if finish_reason:
            self._reason = finish_reason
            yield from self._close()
            if not self._answer["output"]:
                yield from self._open_text("message")
                yield from self._close()

    def _place(self) -> dict[str, Any]:
        assert self._open is not None  # noqa: S101  # its callers have opened one
        return {"item_id": self._open["id"], "output_index": len(self._answer["output"])}

    def _added(self, item: Item) -> Event:
        self._open, self._text, self._tokens = item, "", []
        return {"type": "response.output_item.added", "output_index": len(self._answer["output"]), "item": dict(item)}

    def _open_call(self, name: str) -> Iterator[Event]:
        tool = self._tools.called(name)
        kind, prefix, field = (
            ("custom_tool_call", "ctc", "input") if tool.is_custom else ("function_call", "fc", "arguments")
        )
        item: Item = {"type": kind, "id": f"{prefix}_{uuid4().hex}", "call_id": call_id(), "name": tool.name, field: ""}
        if tool.namespace is not None:
            item["namespace"] = tool.namespace
        yield self._added(item if tool.is_custom else {**item, "status": "in_progress"})

    def _open_text(self, kind: str) -> Iterator[Event]:
        if kind == "reasoning":
            yield self._added({"type": kind, "id": f"rs_{uuid4().hex}", "summary": [], "status": "in_progress"})
        else:
            message = {"type": kind, "id": f"msg_{uuid4().hex}", "role": "assistant", "status": "in_progress"}
            yield self._added({**message, "content": []})
        yield {
            "type": "response.content_part.added",
            **self._place(),
            "content_index": 0,
            "part": self._part(),
        }

    def _add_text(self, text: str, entries: Sequence[Any]) -> Iterator[Event]:
        assert self._open is not None  # noqa: S101  # its caller has opened one
        self._text += text
        self._tokens += entries
        place = {**self._place(), "content_index": 0, "delta": text}
        if self._open["type"] == "reasoning":
            yield {"type": "response.reasoning_text.delta", **place}
        else:
            yield {"type": "response.output_text.delta", **place, "logprobs": list(entries)}

    def _add_arguments(self, text: str) -> Iterator[Event]:
        assert self._open is not None  # noqa: S101  # a call comes before its arguments
        self._text += text
        if self._open["type"] == "function_call":  # free text has to be unwrapped first, when it is whole
            yield {"type": "response.function_call_arguments.delta", **self._place(), "delta": text}

    def _close(self) -> Iterator[Event]:
        if self._open is None:
            return
        item = self._open
        place = self._place()
        if item["type"] == "function_call":
            item |= {"arguments": self._text, "status": self._item_status()}
            done = {"name": item["name"], "arguments": self._text}
            yield {"type": "response.function_call_arguments.done", **place, **done}
        elif item["type"] == "custom_tool_call":
            item["input"] = custom_input(self._text)
            yield {"type": "response.custom_tool_call_input.delta", **place, "delta": item["input"]}
            yield {"type": "response.custom_tool_call_input.done", **place, "input": item["input"]}
        else:
            yield from self._close_text(item, {**place, "content_index": 0})
        self._answer["output"].append(item)
        self._open = None
        yield {"type": "response.output_item.done", "output_index": place["output_index"], "item": item}

    def _close_text(self, item: Item, place: dict[str, Any]) -> Iterator[Event]:
        item |= {"content": [self._part()], "status": self._item_status()}
        if item["type"] == "reasoning":
            item["encrypted_content"] = None
            yield {"type": "response.reasoning_text.done", **place, "text": self._text}
        else:
            logprobs = self._tokens
            yield {"type": "response.output_text.done", **place, "text": self._text, "logprobs": logprobs}
        yield {"type": "response.content_part.done", **place, "part": self._part()}

    def _item_status(self) -> str:
        """Only the last item can be cut off: the others are closed while nothing has ended yet."""
        return "incomplete" if self._reason == "length" else "completed"

    def _part(self) -> dict[str, Any]:
        assert self._open is not None  # noqa: S101  # its callers have opened one
        if self._open["type"] == "reasoning":
            return {"type": "reasoning_text", "text": self._text}
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": list(self._tokens)}


def _failure_code(error: Exception) -> str:
    """The code of a failure in a stream; clients try again after all but the client's own faults."""
    row = row_of(error)
    if row.code == "context_length_exceeded":
        return row.code
    return "invalid_prompt" if row.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"


def response_usage(usage: Usage) -> ResponseUsage:
    """Token counts under this API's names."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "cache_write_tokens": 0,
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"]},
        "total_tokens": usage["total_tokens"],
    }


def _begun(body: ResponseRequest, response_id: str, model_name: str) -> Response:
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model_name,
        "output": [],
        "instructions": body.instructions or None,
        "metadata": body.metadata,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "max_output_tokens": body.max_output_tokens,
        "previous_response_id": body.previous_response_id,
        "service_tier": "default",
        "parallel_tool_calls": body.parallel_tool_calls,
        "tool_choice": body.tool_choice,
        "tools": body.tools,
        "reasoning": {"effort": body.reasoning.effort, "summary": None},
        "store": body.store,
        "text": {"format": body.text.format},
        "top_logprobs": body.top_logprobs,
        "truncation": body.truncation,
        "usage": None,
        "user": None,
    }
