"""The tokens that a grammar allows next. Knows tokens as bytes and as ids; knows no arrays of MLX and no requests.

Grammars are run by llguidance, whose limits bound the work of compiling one and of every token. Nothing that it reads
refers to anything outside of itself.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from time import thread_time
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from engine.errors import GrammarInvalid, ParameterInvalid
from engine.sampling.params import Grammar
from engine.text.tokenizer import Tokenizer

# A piece of the prompt's kind takes a forward pass of its own; fewer tokens are cheaper beside the other rows.
FORCED_TOKENS = 4
_KEPT_GRAMMARS = 64
_KEPT_CHARACTERS = 1 << 20  # compiled, a grammar takes some hundred times as many bytes
_MAX_ERROR_CHARACTERS = 300
_PLACE = re.compile(r"^(?:at )?\d+\(\d+\): ")
_LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=200_000,
    step_max_items=16_000,  # some 200 ms where a grammar is ambiguous, a few otherwise
    max_lexer_states=50_000,  # of about two kilobytes each
    max_grammar_size=200_000,
    verbose_errors=False,
)
# Processor time of one sequence's grammar, so that it is alike on a busy machine: of each token, and at once.
TOKEN_SECONDS = 0.01
BURST_SECONDS = 0.1
# Processor time of all grammars of one step: behind it, those that are known to take long are given up.
STEP_SECONDS = 0.1
_TOO_SLOW = "it takes too long to find what may come next: it is too ambiguous"
_UNSATISFIABLE = "nothing that this model's vocabulary can write would satisfy it"
_KNOWN_ERRORS = {"NoExtensionBias": _UNSATISFIABLE, "NoExtension": _UNSATISFIABLE}


class GrammarRow:
    """One sequence's position in its grammar.

    error: why it cannot go on; None while it can
    seconds: processor time of what follows the newest token so far; expected_seconds: of the token before
    """

    def __init__(
        self,
        matcher: LLMatcher,
        end_id: int,
        vocab_size: int,
        expected_seconds: float = 0.0,
        clock: Callable[[], float] = thread_time,
    ) -> None:
        self.error: str | None = None
        self.seconds = 0.0
        self.expected_seconds = expected_seconds
        self._clock = clock
        self._left_seconds = BURST_SECONDS
        self._matcher = matcher
        self._end_id = end_id
        self._vocab_size = vocab_size
        self._forced: list[int] | None = None  # while no token has been taken since it was asked for
        self._allowed: NDArray[np.bool_] | None = None  # as above

    @property
    def is_done(self) -> bool:
        """True when only an end token may follow, or has been taken."""
        return self.error is None and bool(self._matcher.is_stopped())

    def take(self, token_ids: Sequence[int]) -> None:
        """Go on by these tokens. Behind the end there is nothing to go on to."""
        self._forced = self._allowed = None
        if self.error is None and not self.is_done:
            self._left_seconds = min(self._left_seconds + TOKEN_SECONDS * len(token_ids), BURST_SECONDS)
            self.expected_seconds, self.seconds = self.seconds, 0.0
            with self._counted():
                self._matcher.consume_tokens(list(token_ids))

    def forced(self) -> list[int]:
        """Tokens that must come next because nothing else may; an end token where the grammar has ended."""
        if self.error is not None:
            return []
        if self.is_done:
            return [self._end_id]
        if self._forced is None:
            with self._counted():
                self._forced = list(self._matcher.compute_ff_tokens())
        return self._forced

    def allowed(self) -> NDArray[np.bool_]:
        """The tokens that may come next, (vocab_size,); all of them where it cannot go on.

        Where only one text can follow, that is the first token of its usual spelling.
        """
        if forced := self.forced():
            alone = np.zeros(self._vocab_size, np.bool_)
            alone[forced[0]] = True
            return alone
        if self._allowed is None and self.error is None:
            with self._counted():
                bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            self._allowed = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)
            if self.error is None and not self._allowed.any():
                self.error = _UNSATISFIABLE
        return np.ones(self._vocab_size, np.bool_) if self.error is not None or self._allowed is None else self._allowed

    def give_up(self) -> None:
        """Let it go on no further: it costs others too much."""
        self.error = self.error or _TOO_SLOW

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count the time that this takes, and look how it has ended."""
        started = self._clock()
        yield
        spent = self._clock() - started
        self.seconds += spent
        self._left_seconds -= spent
        if self._matcher.is_error():
            self.error = _told(self._matcher.get_error())
        elif self._left_seconds < 0:
            self.give_up()


def find_masks(rows: Sequence[GrammarRow]) -> None:
    """Find what every row allows next, the cheapest row first. Those that would hold up the others are given up."""
    spent = 0.0
    for row in sorted(rows, key=lambda row: row.expected_seconds):
        if row.expected_seconds > TOKEN_SECONDS and spent > STEP_SECONDS:
            row.give_up()
        before = row.seconds
        row.allowed()
        spent += row.seconds - before


class GrammarCompiler:
    """Makes grammars of a model's vocabulary. Safe to use from several threads; compiling lets other threads run.

    read_tokenizer: called once, when the first grammar is asked for
    vocab_size: of the model, whose tokenizer may know fewer tokens or more
    end_ids: tokens that end an answer
    """

    def __init__(self, read_tokenizer: Callable[[], Tokenizer], vocab_size: int, end_ids: Iterable[int]) -> None:
        self._read_tokenizer = read_tokenizer
        self._vocab_size = vocab_size
        self._end_ids = sorted(end_ids)
        self._lock = Lock()
        self._tokens: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, tuple[LLMatcher, float]] = OrderedDict()

    def begin(self, grammar: Grammar) -> GrammarRow:
        """The state before the first token. Raises GrammarInvalid, and ParameterInvalid where no grammar can be kept.

        Takes a while when the grammar is new.
        """
        with self._lock:
            tokens = self._tokens = self._tokens or self._read_tokens(grammar.param)
            compiled = self._compiled.get(grammar)
        if compiled is None:  # others' grammars go on meanwhile
            compiled = self._compile(grammar, tokens)
        with self._lock:
            self._compiled[grammar] = compiled
            self._compiled.move_to_end(grammar)
            while len(self._compiled) > 1 and self._keeps_too_much():
                self._compiled.popitem(last=False)
            matcher, seconds = compiled
            return GrammarRow(matcher.deep_copy(), self._end_ids[0], self._vocab_size, seconds)

    def _keeps_too_much(self) -> bool:
        num_characters = sum(len(each.lark) for each in self._compiled)
        return len(self._compiled) > _KEPT_GRAMMARS or num_characters > _KEPT_CHARACTERS

    def _compile(self, grammar: Grammar, tokens: LLTokenizer) -> tuple[LLMatcher, float]:
        """The state before the first token, and the processor time of the first mask."""
        try:
            matcher = LLMatcher(tokens, _source(grammar), log_level=0, limits=_LIMITS)
        except ValueError as error:
            raise GrammarInvalid(grammar.param, _told(str(error))) from None
        if matcher.is_error():
            raise GrammarInvalid(grammar.param, _told(matcher.get_error()))
        first = GrammarRow(matcher.deep_copy(), 0, self._vocab_size)
        first.allowed()
        if first.error is not None:
            raise GrammarInvalid(grammar.param, first.error)
        return matcher, first.seconds

    def _read_tokens(self, param: str) -> LLTokenizer:
        tokenizer = self._read_tokenizer()
        if not tokenizer.joins_bytes:
            raise ParameterInvalid(
                param, f"{param} needs a vocabulary of bytes or pieces of text, unlike this model's."
            )
        ends = sorted({*self._end_ids, *(each for each in tokenizer.eos_token_ids if each < self._vocab_size)})
        if not ends:
            raise ParameterInvalid(param, f"{param} needs a model with an end token, which this one does not name.")
        self._end_ids = [self._end_ids[0] if self._end_ids else ends[0], *ends]
        vocabulary: Any = _Vocabulary(tokenizer, self._vocab_size, ends[0])
        return LLTokenizer(vocabulary, n_vocab=self._vocab_size, eos_token=ends)


class _Vocabulary:
    """The tokenizer's face that llguidance asks for."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_id: int) -> None:
        self.eos_token_id = end_id
        self.bos_token_id = tokenizer.bos_token_id
        self.tokens = [tokenizer.token_bytes(each) for each in range(min(tokenizer.vocab_size, vocab_size))]
        self.special_token_ids = sorted(each for each in tokenizer.marks().values() if each < len(self.tokens))
        self._tokenizer = tokenizer
        self._by_bytes = {spelled: each for each, spelled in enumerate(self.tokens) if spelled}
        self._longest = max(map(len, self._by_bytes))

    def __call__(self, text: bytes | str) -> list[int]:
        """Token ids whose bytes are exactly this text's."""
        raw = text.encode() if isinstance(text, str) else text
        ids = self._tokenizer.encode(raw.decode("utf-8", "replace"), add_special_tokens=False, parse_special=False)
        known = all(each < len(self.tokens) for each in ids)
        if known and b"".join(self.tokens[each] for each in ids) == raw:
            return ids
        # Vocabularies that put a space before a text cannot spell one that goes on without it.
        return self._longest_pieces(raw)

    def _longest_pieces(self, raw: bytes) -> list[int]:
        ids: list[int] = []
        while raw:
            lengths = range(min(self._longest, len(raw)), 0, -1)
            length = next((each for each in lengths if raw[:each] in self._by_bytes), None)
            if length is None:
                return ids
            ids.append(self._by_bytes[raw[:length]])
            raw = raw[length:]
        return ids


def _source(grammar: Grammar) -> str:
    parts = ({"name": name, "lark_grammar": lark} for name, lark in grammar.parts)
    return json.dumps({"grammars": [{"lark_grammar": grammar.lark}, *parts]})


def _told(error: Any) -> str:
    """The first lines of a library's message, as one sentence's part without places in a text that nobody wrote."""
    lines = [line.strip() for line in str(error).replace("<non-verbose/>", "").splitlines()]
    text = " ".join(line for line in lines if line and not re.match(r"^\d+ \||^\^", line))
    text = _PLACE.sub("", _KNOWN_ERRORS.get(text, text)).replace("failed to compile JSON schema: ", "")
    return text[:_MAX_ERROR_CHARACTERS].rstrip(". ") or _UNSATISFIABLE
