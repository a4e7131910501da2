"""Tokens to text one by one, whole characters only. Knows a tokenizer; nothing of stop strings or HTTP."""

import codecs
from collections.abc import Sequence

from engine.text.tokenizer import Tokenizer

_CONTEXT_TOKENS = 8


class Detokenizer:
    """Text of a growing sequence of tokens.

    What push() and finish() return, joined, is the decoded whole. Bytes of an unfinished character are held back;
    bytes that can be no character become U+FFFD.

    prompt_ids: what came before; the first token keeps its leading space then
    kept_ids: special tokens that are spelled out all the same
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
        kept_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids - kept_ids if skip_special_tokens else frozenset[int]()
        self._at_start = not prompt_ids
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._window: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that this token completes; "" while a character is unfinished."""
        if token_id in self._skipped:
            return ""
        if not self._tokenizer.joins_bytes:
            return self._rejoin(token_id)
        text = self._characters.decode(self._tokenizer.token_bytes(token_id))
        return self._without_leading_space(text)

    def finish(self) -> str:
        """The text that was held back."""
        return self._characters.decode(b"", final=True)

    def _without_leading_space(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ") if self._tokenizer.leading_space else text
        return text

    def _rejoin(self, token_id: int) -> str:
        """Vocabularies that join words by rule: the text a token adds to the few before it."""
        before = self._tokenizer.decode(self._window, skip_special_tokens=False)
        self._window.append(token_id)
        after = self._tokenizer.decode(self._window, skip_special_tokens=False)
        self._window = self._window[-_CONTEXT_TOKENS:]
        return after[len(before) :]
