"""Answers of /chat/completions: whole, or as chunks made of deltas. Knows pieces and scores; nothing of workers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import time
from typing import Any, Literal
from uuid import uuid4

from engine.requests import FinishReason
from server.api.chat.schemas import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatDelta,
    ChatLogprobs,
    TokenLogprob,
    TopLogprob,
)
from server.api.shared.answer import ChunkedReply
from server.generation.continuation import Delta, LikelyToken, ScoredToken
from server.generation.generation import Choice
from server.parsing.piece import Piece
from server.version import FINGERPRINT
from server.wire.tools import FunctionCallText, ToolCallOut
from server.wire.usage import Usage

ChatFinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class ChatReply(ChunkedReply):
    """Chat completions and their chunks. prompt_ids: set once the prompt is encoded, before the first chunk"""

    def __init__(self, body: ChatCompletionRequest, model_name: str) -> None:
        super().__init__(body.stream_options)
        self.reply_id = f"chatcmpl-{uuid4().hex}"
        self.num_choices = body.n
        self._wants_logprobs = body.logprobs
        self._by_id = body.return_tokens_as_token_ids
        self._in_older_form = bool(body.functions)
        self._shows_ids = body.return_token_ids
        self.prompt_ids: Sequence[int] = ()
        self._shows_reasoning = body.include_reasoning
        self._must_call = bool(body.forced_tools)
        self._model_name = model_name
        self._created = int(time())
        self._begun: set[int] = set()
        self._num_calls: Counter[int] = Counter()

    def chunks(self, delta: Delta) -> Iterable[dict[str, Any]]:
        """The role before the first piece of a choice, the pieces, the finish after the last."""
        if not self._shows_ids:
            return self._chunks(delta)
        is_first = not self._begun
        chunks = list(self._chunks(delta))
        if is_first:
            chunks[0]["prompt_token_ids"] = list(self.prompt_ids)
        if chunks:
            chunks[-1]["choices"][0]["token_ids"] = list(delta.token_ids)
        return chunks

    def _chunks(self, delta: Delta) -> Iterator[dict[str, Any]]:
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            begins_with_call = bool(delta.pieces) and delta.pieces[0].field == "call"
            begin: ChatDelta = {"role": "assistant"} if begins_with_call else {"role": "assistant", "content": ""}
            yield self._chunk(delta.index, begin)
        tokens = delta.tokens
        for piece in delta.pieces:
            if piece.field == "content":
                yield self._chunk(delta.index, {"content": piece.text}, tokens=tokens)
                tokens = ()
            elif piece.field != "reasoning":
                yield self._chunk(delta.index, self._call(delta.index, piece))
            elif self._shows_reasoning:
                yield self._chunk(delta.index, {"reasoning_content": piece.text})
        if tokens:
            yield self._chunk(delta.index, {"content": ""}, tokens=tokens)
        if delta.finish_reason:
            reason = self._reason(delta.finish_reason, has_calls=self._num_calls[delta.index] > 0)
            yield self._chunk(delta.index, {}, finish_reason=reason)

    def usage_chunk(self, usage: Usage) -> Mapping[str, Any]:
        """A chunk without choices."""
        return {**self._event([]), "usage": usage}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> ChatCompletion:
        """All choices at once."""
        answer: ChatCompletion = {
            "id": self.reply_id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": FINGERPRINT,
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": usage,
        }
        return {**answer, "prompt_token_ids": list(self.prompt_ids)} if self._shows_ids else answer

    def _choice(self, index: int, choice: Choice) -> ChatChoice:
        answer: ChatChoice = {
            "index": index,
            "message": self._message(choice),
            "logprobs": chat_logprobs(choice.tokens, by_id=self._by_id) if self._wants_logprobs else None,
            "finish_reason": self._reason(choice.finish_reason, has_calls=bool(choice.calls())),
        }
        return {**answer, "token_ids": choice.token_ids} if self._shows_ids else answer

    def _message(self, choice: Choice) -> AssistantMessage:
        calls, reasoning = choice.calls(), choice.of("reasoning")
        message: AssistantMessage = {"role": "assistant", "content": choice.text, "refusal": None}
        if reasoning and self._shows_reasoning:
            message["reasoning_content"] = reasoning
        if calls or self._must_call:
            message["content"] = choice.text or None
        if calls and self._in_older_form:
            message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
        elif calls:
            message["tool_calls"] = [
                {"id": call_id(), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
        return message

    def _reason(self, reason: FinishReason, *, has_calls: bool) -> ChatFinishReason:
        told = finish_reason(reason, has_calls=has_calls)
        return "function_call" if told == "tool_calls" and self._in_older_form else told

    def _call(self, index: int, piece: Piece) -> ChatDelta:
        """A piece of a call; calls count from 0 within the choice."""
        begins = piece.field == "call"
        self._num_calls[index] += begins
        function: FunctionCallText = {"name": piece.text, "arguments": ""} if begins else {"arguments": piece.text}
        if self._in_older_form:
            return {"function_call": function}
        call: ToolCallOut = {"index": self._num_calls[index] - 1, "function": function}
        return {"tool_calls": [{**call, "id": call_id(), "type": "function"} if begins else call]}

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        *,
        tokens: Sequence[ScoredToken] = (),
        finish_reason: ChatFinishReason | None = None,
    ) -> dict[str, Any]:
        logprobs = chat_logprobs(tokens, by_id=self._by_id) if self._wants_logprobs and tokens else None
        return dict(
            self._event([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}])
        )

    def _event(self, choices: list[ChatChunkChoice]) -> ChatCompletionChunk:
        return {
            "id": self.reply_id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }


def finish_reason(reason: FinishReason, *, has_calls: bool) -> ChatFinishReason:
    """Why the answer ended, in the words of this API; what was cut off says so even amid a call."""
    return "tool_calls" if has_calls and reason == "stop" else reason


def call_id() -> str:
    """A name for a new call."""
    return f"call_{uuid4().hex[:24]}"


def chat_logprobs(tokens: Sequence[ScoredToken], *, by_id: bool = False) -> ChatLogprobs:
    """One entry per token of the content; the end token is not part of it. by_id: spelled `token_id:7`"""
    content: list[TokenLogprob] = [
        {**_entry(token.chosen, by_id=by_id), "top_logprobs": [_entry(each, by_id=by_id) for each in token.likely]}
        for token in tokens
        if not token.is_end
    ]
    return {"content": content, "refusal": None}


def _entry(token: LikelyToken, *, by_id: bool) -> TopLogprob:
    text = f"token_id:{token.token_id}" if by_id else token.text
    return {"token": text, "logprob": token.logprob, "bytes": list(token.raw)}
