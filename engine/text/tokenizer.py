"""Text to token ids and back, whatever the vocabulary's kind. Knows nothing of files or chat templates."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from engine.errors import ParameterInvalid

_MARK = re.compile(r"[<\[◁]\S+[>\]▷]")


class Vocabulary(Protocol):
    """One library's tokenizer. Ids run from 0 to size - 1.

    added: tokens that are found in a text before it is cut into pieces, special or not
    joins_bytes: a token's bytes are the same wherever it stands, so that a text's bytes are its tokens' joined
    """

    size: int
    added: Mapping[int, str]
    joins_bytes: bool

    def encode(self, text: str, *, add_special_tokens: bool, parse_special: bool) -> list[int]:
        """Token ids of a text."""

    def encode_pair(self, first: str, second: str, *, parse_special: bool) -> tuple[list[int], list[int]]:
        """Token ids of two texts that are read together, special tokens included, and the type of each token."""

    def decode(self, ids: list[int]) -> str:
        """Text of all these tokens."""

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it; None for an unused id."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text in which it is not the first."""

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""


def check_text(text: str) -> None:
    """Refuse what is no Unicode: half of a surrogate pair, which no vocabulary can spell. Raises ParameterInvalid."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ParameterInvalid("input", "The text has half of a surrogate pair, which is no character.") from None


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The tokens with a meaning of their own.

    ids: all that are left out of a decoded text
    eos_ids: end an answer; there may be several
    """

    ids: frozenset[int]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None


class Tokenizer:
    """One face over every kind of vocabulary. Safe to use from several threads.

    leading_space: the vocabulary spells a text's start with a space, which decoding removes
    """

    def __init__(self, vocabulary: Vocabulary, special: SpecialTokens, *, leading_space: bool = False) -> None:
        self._vocabulary = vocabulary
        self._special = special
        self.leading_space = leading_space
        self._lock = Lock()
        self.vocab_size = vocabulary.size
        self.special_ids = special.ids
        self.bos_token_id = special.bos_id
        self.eos_token_ids = special.eos_ids
        self.bos_token, self.eos_token = special.bos, special.eos
        self.pad_token, self.unk_token = special.pad, special.unk

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text.

        add_special_tokens: put the tokens around it that the model expects, such as a beginning
        parse_special: a special token's spelling in the text becomes that token; else it is plain text
        """
        check_text(text)
        with self._lock:
            return self._vocabulary.encode(text, add_special_tokens=add_special_tokens, parse_special=parse_special)

    def encode_pair(self, first: str, second: str, *, parse_special: bool = True) -> tuple[list[int], list[int]]:
        """Token ids of two texts as a model reads them together, with the special tokens that it expects around them.

        Returns the ids, and for each the kind of its text (BERT's token types): 0 where a family knows but one.
        """
        check_text(first)
        check_text(second)
        with self._lock:
            return self._vocabulary.encode_pair(first, second, parse_special=parse_special)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of these tokens; bytes that are no UTF-8 become U+FFFD."""
        kept = [each for each in ids if not (skip_special_tokens and each in self.special_ids)]
        if not self._vocabulary.joins_bytes:
            return self._vocabulary.decode(kept)
        text = b"".join(self.token_bytes(each) for each in kept).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.leading_space else text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text; empty for ids outside the vocabulary."""
        return self._vocabulary.token_bytes(token_id)

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it; None for an unused id."""
        return self._vocabulary.token(token_id)

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        return self._vocabulary.token_id(token)

    @property
    def joins_bytes(self) -> bool:
        """True when a text's bytes are its tokens' bytes joined."""
        return self._vocabulary.joins_bytes

    def special_tokens(self) -> list[tuple[int, str]]:
        """Every special token's id and spelling."""
        spelled = ((token_id, self._vocabulary.token(token_id)) for token_id in sorted(self.special_ids))
        return [(token_id, text) for token_id, text in spelled if text]

    def marks(self) -> dict[str, int]:
        """Tokens that stand for themselves rather than for their letters: special ones, and added ones in brackets."""
        added = {text: each for each, text in self._vocabulary.added.items() if _MARK.fullmatch(text)}
        return added | {text: token_id for token_id, text in self.special_tokens()}

    def special_strings(self) -> list[str]:
        """The texts of the special tokens, longest first."""
        spelled = {self._vocabulary.token(each) for each in self.special_ids}
        return sorted((each for each in spelled if each), key=len, reverse=True)
