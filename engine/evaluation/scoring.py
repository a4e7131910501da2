"""Hold a model's predictions against a text and against another model's, a bounded piece at a time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from engine.evaluation.decoder import LoadedDecoder

_LOGIT_BYTES = 64 << 20  # of one piece of one model's logits in float32


@dataclass(slots=True)
class Tally:
    """Sums over tokens. Losses are in nats.

    divergence: of the model's distribution from the reference's, Kullback-Leibler
    num_agreed: tokens whose likeliest candidate is the same for both
    read_tokens, read_seconds: what the model has read, and how long that took it alone
    """

    num_tokens: int = 0
    loss: float = 0.0
    divergence: float = 0.0
    num_agreed: int = 0
    num_bytes: int = 0
    read_tokens: int = 0
    read_seconds: float = 0.0


def score_windows(
    windows: Sequence[Sequence[int]], model: LoadedDecoder, reference: LoadedDecoder | None, tally: Tally
) -> None:
    """Add what one batch of windows gives to the tally."""
    lengths = [len(window) for window in windows]
    longest = max(lengths)
    ids = mx.array([[*window, *[0] * (longest - len(window))] for window in windows])
    places, targets = _scored_places(windows, longest)
    started = time.perf_counter()
    hidden = _chosen(model.hidden(ids, lengths), places)
    mx.eval(hidden)
    tally.read_seconds += time.perf_counter() - started
    tally.read_tokens += sum(lengths)
    of_reference = None if reference is None else _chosen(reference.hidden(ids, lengths), places)
    for piece in _pieces(len(targets), int(model.checkpoint.config["vocab_size"])):
        started = time.perf_counter()
        logits = model.model.logits(hidden[piece]).astype(mx.float32)
        mx.eval(logits)
        tally.read_seconds += time.perf_counter() - started
        _add(tally, logits, mx.array(targets[piece]))
        if reference is not None and of_reference is not None:
            _compare(tally, logits, reference.model.logits(of_reference[piece]).astype(mx.float32))
    tally.num_tokens += len(targets)
    tally.num_bytes += sum(len(model.tokenizer.token_bytes(token)) for token in targets)


def _scored_places(windows: Sequence[Sequence[int]], longest: int) -> tuple[mx.array, list[int]]:
    """The positions in the flattened batch that predict a token of the text, and the tokens they predict."""
    places = [row * longest + place for row, window in enumerate(windows) for place in range(len(window) - 1)]
    return mx.array(places), [token for window in windows for token in window[1:]]


def _chosen(hidden: mx.array, places: mx.array) -> mx.array:
    return hidden.reshape(-1, hidden.shape[-1])[places]


def _pieces(num_tokens: int, vocab_size: int) -> Iterator[slice]:
    size = max(1, _LOGIT_BYTES // (4 * vocab_size))
    return (slice(start, start + size) for start in range(0, num_tokens, size))


def _add(tally: Tally, logits: mx.array, targets: mx.array) -> None:
    found = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    tally.loss += _sum(mx.logsumexp(logits, axis=-1) - found)


def _compare(tally: Tally, logits: mx.array, expected: mx.array) -> None:
    own = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    other = expected - mx.logsumexp(expected, axis=-1, keepdims=True)
    tally.divergence += _sum(mx.exp(other) * (other - own))
    same = mx.argmax(logits, axis=-1) == mx.argmax(expected, axis=-1)
    tally.num_agreed += round(_sum(same))


def _sum(array: mx.array) -> float:
    total: Any = mx.sum(array).item()
    return float(total)
