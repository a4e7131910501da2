"""Log-probabilities of given tokens, and of the most likely ones beside them. Knows logits; nothing of sampling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from engine.native.kernels import Kernels
from engine.requests import SampledToken

_MOST_CANDIDATES = 64  # that a kernel finds
_LOGITS_AT_ONCE = 4 << 20  # of a prompt: 16 MB of float32


@dataclass(frozen=True, slots=True)
class Scores:
    """Natural logs of raw probabilities of n tokens. The arrays may not be evaluated yet.

    tokens, logprobs: (n,)
    top_ids, top_logprobs: (n, k) best first; None where k is 0
    """

    tokens: mx.array
    logprobs: mx.array
    top_ids: mx.array | None = None
    top_logprobs: mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        """Everything to evaluate."""
        return [each for each in (self.tokens, self.logprobs, self.top_ids, self.top_logprobs) if each is not None]

    def read(self) -> list[SampledToken]:
        """The scores as plain values."""
        ids: Any = self.tokens.tolist()
        logprobs: Any = self.logprobs.tolist()
        top_ids: Any = [[]] * len(ids) if self.top_ids is None else self.top_ids.tolist()
        top_logprobs: Any = [[]] * len(ids) if self.top_logprobs is None else self.top_logprobs.tolist()
        tops = [tuple(zip(*pair, strict=True)) for pair in zip(top_ids, top_logprobs, strict=True)]
        return [SampledToken(*each) for each in zip(ids, logprobs, tops, strict=True)]


def score(logits: mx.array, tokens: mx.array, count: int, kernels: Kernels | None) -> Scores:
    """The log-probability of each token, and the `count` most likely tokens in its place.

    logits: (n, vocab_size) float32
    tokens: (n,)
    """
    count = min(count, logits.shape[-1])
    own = tokens[:, None]
    if kernels is not None and count <= _MOST_CANDIDATES:
        _, normaliser, *best = kernels.choose(logits, count)
        logprobs = mx.take_along_axis(logits, own, axis=-1)[:, 0] - normaliser
        return Scores(tokens, logprobs, *_best_logprobs(best, normaliser))
    all_logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    logprobs = mx.take_along_axis(all_logprobs, own, axis=-1)[:, 0]
    if count == 0:
        return Scores(tokens, logprobs)
    top = mx.argpartition(-all_logprobs, count - 1, axis=-1)[:, :count]
    values = mx.take_along_axis(all_logprobs, top, axis=-1)
    order = mx.argsort(-values, axis=-1)
    return Scores(tokens, logprobs, *(mx.take_along_axis(each, order, axis=-1) for each in (top, values)))


def score_prompt(
    logits_of: Callable[[mx.array], mx.array],
    hidden: mx.array,
    tokens: Sequence[int],
    count: int,
    vocab_size: int,
    kernels: Kernels | None,
) -> list[Scores]:
    """Score tokens of a prompt as `score` does, in pieces: the logits of a long one would fill the memory.

    logits_of: the model's head
    hidden: (n, hidden_size), the states of the tokens before these
    """
    size = max(1, _LOGITS_AT_ONCE // vocab_size)
    pieces: list[Scores] = []
    for start in range(0, len(tokens), size):
        logits = logits_of(hidden[start : start + size]).astype(mx.float32)
        pieces.append(score(logits, mx.array(list(tokens[start : start + size])), count, kernels))
        mx.async_eval(*pieces[-1].arrays)  # type: ignore[no-untyped-call]  # mlx's stub lacks it
    return pieces


def _best_logprobs(best: Sequence[mx.array], normaliser: mx.array) -> list[mx.array]:
    """Ids and logits as ids and log-probabilities; nothing of nothing."""
    return [best[0], best[1] - normaliser[:, None]] if best else []
