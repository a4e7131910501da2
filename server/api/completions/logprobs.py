"""Scores of tokens in the shapes of /completions. Knows tokens that are already text; nothing of workers or HTTP."""

from collections.abc import Sequence

from server.api.completions.prompt import Echo
from server.api.completions.schemas import CompletionLogprobs, PromptLogprob
from server.generation.continuation import LikelyToken, ScoredToken


class TokenLists:
    """Makes the four lists of `logprobs`.

    count: so many of the most likely tokens are listed, and the chosen one besides
    by_id: tokens are spelled `token_id:7` instead of as text
    """

    def __init__(self, count: int, *, by_id: bool) -> None:
        self._count = count
        self._by_id = by_id

    def of(self, tokens: Sequence[ScoredToken], start: int = 0) -> CompletionLogprobs:
        """Lists of equal length. Of two tokens with the same text the likelier one is kept.

        start: where in the answer the generated text begins, in characters
        """
        return {
            "tokens": [self._spell(token.chosen) for token in tokens],
            "token_logprobs": [token.chosen.logprob for token in tokens],
            "top_logprobs": [self._likely_by_text(token) for token in tokens],
            "text_offset": [start + token.offset for token in tokens],
        }

    def of_prompt(self, echo: Echo, prompt: Sequence[ScoredToken]) -> CompletionLogprobs:
        """The lists of the echoed prompt; nothing stands before its first token, which has no score."""
        scored = self.of(prompt)
        first = f"token_id:{echo.first_id}" if self._by_id else echo.first_token
        return {
            "tokens": [first, *scored["tokens"]],
            "token_logprobs": [None, *scored["token_logprobs"]],
            "top_logprobs": [None, *scored["top_logprobs"]],
            "text_offset": list(echo.offsets),
        }

    def _spell(self, token: LikelyToken) -> str:
        return f"token_id:{token.token_id}" if self._by_id else token.text

    def _likely_by_text(self, token: ScoredToken) -> dict[str, float]:
        by_text: dict[str, float] = {}
        for each in (*token.likely[: self._count], token.chosen):
            spelled = self._spell(each)
            by_text[spelled] = max(each.logprob, by_text.get(spelled, each.logprob))
        return by_text


def joined(first: CompletionLogprobs, second: CompletionLogprobs) -> CompletionLogprobs:
    """One after the other."""
    return {
        "tokens": first["tokens"] + second["tokens"],
        "token_logprobs": first["token_logprobs"] + second["token_logprobs"],
        "top_logprobs": first["top_logprobs"] + second["top_logprobs"],
        "text_offset": first["text_offset"] + second["text_offset"],
    }


def prompt_logprobs(prompt: Sequence[ScoredToken], count: int) -> list[dict[str, PromptLogprob] | None]:
    """An entry per token of the prompt: by ids, those that were likely in its place, and the token itself."""
    return [None, *(_by_id(token, count) for token in prompt)]


def _by_id(token: ScoredToken, count: int) -> dict[str, PromptLogprob]:
    entries = {str(each.token_id): _entry(each, rank) for rank, each in enumerate(token.likely[:count], 1)}
    entries.setdefault(str(token.chosen.token_id), _entry(token.chosen, None))
    return entries


def _entry(token: LikelyToken, rank: int | None) -> PromptLogprob:
    return {"logprob": token.logprob, "rank": rank, "decoded_token": token.text}
