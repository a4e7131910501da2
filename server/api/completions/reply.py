"""Answers of /completions: whole, or as chunks made of deltas. Knows deltas and scores; nothing of workers."""

from collections.abc import Iterator, Mapping, Sequence
from time import time
from typing import Any
from uuid import uuid4

from engine.errors import StepFailed
from server.api.completions.logprobs import TokenLists, joined, prompt_logprobs
from server.api.completions.prompt import EncodedPrompt
from server.api.completions.schemas import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from server.api.shared.answer import ChunkedReply
from server.generation.continuation import Delta, ScoredToken
from server.generation.generation import Choice
from server.version import FINGERPRINT
from server.wire.usage import Usage


class CompletionReply(ChunkedReply):
    """Completions and their chunks, which have the same shape.

    prompts: set once they are encoded, before the first chunk
    """

    def __init__(self, body: CompletionRequest, model_name: str) -> None:
        super().__init__(body.stream_options)
        self.reply_id = f"cmpl-{uuid4().hex}"
        self.num_choices = len(body.prompt) * body.num_tries
        self._body = body
        self.prompts: Sequence[EncodedPrompt] = ()
        self._lists = TokenLists(body.logprobs or 0, by_id=body.return_tokens_as_token_ids)
        self._model_name = model_name
        self._created = int(time())
        self._begun: set[int] = set()

    def chunks(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """One chunk per delta; the first of a choice begins with the echoed prompt."""
        begins = delta.index not in self._begun
        self._begun.add(delta.index)
        prompt = self.prompts[delta.index // self._body.num_tries]
        choice = self._choice(delta.index, delta, prompt, begins=begins)
        yield dict(self._answer([choice]))

    def usage_chunk(self, usage: Usage) -> Mapping[str, Any]:
        """A chunk without choices."""
        return {**self._answer([]), "usage": usage}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Mapping[str, Any]:
        """All choices at once; of several tries at a prompt, the likeliest."""
        tries, wanted = self._body.num_tries, self._body.n
        answered: list[CompletionChoice] = []
        for number, prompt in enumerate(self.prompts):
            for choice in likeliest(choices[number * tries : (number + 1) * tries], wanted):
                answered.append(self._choice(len(answered), choice, prompt, begins=True))
        return {**self._answer(answered), "usage": usage}

    def _answer(self, choices: list[CompletionChoice]) -> Completion:
        return {
            "id": self.reply_id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }

    def _choice(self, index: int, part: Delta | Choice, prompt: EncodedPrompt, *, begins: bool) -> CompletionChoice:
        """A choice, or a piece of one; what is about the prompt comes where it begins."""
        body = self._body
        choice: CompletionChoice = {
            "index": index,
            "text": prompt.echo.text + part.text if begins else part.text,
            "logprobs": self._logprobs(prompt, part.prompt, part.tokens, begins=begins),
            "finish_reason": part.finish_reason,
        }
        if begins and body.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(part.prompt, body.prompt_logprobs)
        if body.return_token_ids:
            choice["token_ids"] = list(part.token_ids)
            if begins:
                choice["prompt_token_ids"] = list(prompt.ids)
        return choice

    def _logprobs(
        self, prompt: EncodedPrompt, scored: Sequence[ScoredToken], tokens: Sequence[ScoredToken], *, begins: bool
    ) -> CompletionLogprobs | None:
        if self._body.logprobs is None:
            return None
        own = self._lists.of(tokens, len(prompt.echo.text))
        if not begins or not prompt.echo.offsets:
            return own
        if len(scored) != len(prompt.ids) - 1:
            raise StepFailed(f"{len(scored)} of {len(prompt.ids) - 1} prompt tokens were scored.")
        return joined(self._lists.of_prompt(prompt.echo, scored), own)


def likeliest(choices: Sequence[Choice], count: int) -> list[Choice]:
    """The choices with the highest mean log-probability per token, in the order in which they were made."""
    if len(choices) == count:
        return list(choices)

    def mean(choice: Choice) -> float:
        return sum(token.chosen.logprob for token in choice.tokens) / max(len(choice.tokens), 1)

    best = sorted(range(len(choices)), key=lambda index: -mean(choices[index]))[:count]
    return [choices[index] for index in sorted(best)]
