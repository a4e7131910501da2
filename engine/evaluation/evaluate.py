"""Measure a model on a text: how well it predicts it, how far it is from another model, its size and its speed."""

from engine.evaluation.decoder import LoadedDecoder  # isort: skip  # first: loads the BLAS before mlx

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from engine.attention.batch import Batch
from engine.cache.layout import Dense
from engine.cache.slots import Slot, lone_slot
from engine.checkpoint.checkpoint import Checkpoint
from engine.errors import ChoiceInvalid
from engine.evaluation.errors import ModelsDiffer, OutputNotFinite
from engine.evaluation.scoring import Tally, score_windows
from engine.evaluation.texts import Text, cut_windows, num_scored
from engine.progress import Progress, Report, Stop, never, unheard

_WRITTEN_TOKENS = 32
_MIN_WINDOW = 8
_MAX_WINDOW = 1 << 20


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """The settings of a measurement.

    window_tokens: context that each prediction has at most; windows follow one another without overlap
    max_tokens: of the text; None takes all
    batch_tokens: read at once
    """

    window_tokens: int = 512
    max_tokens: int | None = None
    batch_tokens: int = 1024


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The measures of one model. Losses are in nats, speeds in tokens per second.

    num_tokens, total_tokens: predicted, and to be predicted; fewer when the work was interrupted
    divergence, agreement: Kullback-Leibler divergence of the reference's distribution from the model's, per token, and
        the share of tokens whose likeliest candidate is the same; None without a reference
    write_speed: of one sequence; None when the work was interrupted before
    """

    name: str
    num_bytes: int
    num_parameters: int
    text: str
    num_tokens: int
    total_tokens: int
    perplexity: float
    bits_per_byte: float
    divergence: float | None
    agreement: float | None
    read_speed: float
    write_speed: float | None

    @property
    def partial(self) -> bool:
        """True when the work was interrupted: the figures are of the text's beginning."""
        return self.num_tokens < self.total_tokens


def evaluate(
    model: LoadedDecoder,
    reference: LoadedDecoder | None,
    text: Text,
    settings: EvaluationSettings,
    report: Report = unheard,
    stop: Stop = never,
) -> Evaluation | None:
    """Measure a model, against another one where there is a reference.

    stop: asked after every batch; the figures are then of what was read, None when nothing was
    Raises TextUnusable, ChoiceInvalid, ModelsDiffer and OutputNotFinite.
    """
    _check_window(settings.window_tokens, model)
    if reference is not None:
        _check_window(settings.window_tokens, reference)
        check_vocabularies(model, reference)
    windows = cut_windows(text, model.tokenizer, settings.window_tokens, settings.max_tokens)
    total, tally = num_scored(windows), Tally()
    rows = max(1, settings.batch_tokens // settings.window_tokens)
    for first in range(0, len(windows), rows):
        if stop():
            break
        score_windows(windows[first : first + rows], model, reference, tally)
        if not math.isfinite(tally.loss + tally.divergence):
            raise OutputNotFinite(model.name, tally.num_tokens)
        report(Progress("reading", tally.num_tokens, total, note=f"perplexity {_perplexity(tally):.2f}"))
    if not tally.num_tokens:
        return None
    return _evaluation(model, reference, text, tally, total, None if stop() else measure_writing(model, windows[0]))


def check_vocabularies(first: LoadedDecoder, second: LoadedDecoder) -> None:
    """Raise ModelsDiffer unless both models spell every text with the same tokens."""
    sizes = [_vocab_size(each.checkpoint) for each in (first, second)]
    if sizes[0] != sizes[1]:
        raise ModelsDiffer(first.name, second.name, f"their vocabularies have {sizes[0]} and {sizes[1]} tokens")
    for token in range(first.tokenizer.vocab_size):
        if first.tokenizer.token_bytes(token) != second.tokenizer.token_bytes(token):
            raise ModelsDiffer(first.name, second.name, f"token {token} does not mean the same to them")


def measure_writing(model: LoadedDecoder, prompt_ids: Sequence[int]) -> float:
    """Tokens per second of one sequence that is continued greedily."""
    prompt = list(prompt_ids[: max(1, len(prompt_ids) // 4)])
    slot = lone_slot(model.model.cache, Dense(), len(prompt) + _WRITTEN_TOKENS + 1, kernels=model.device.native)
    token = _advance(model, mx.array([prompt]), slot)
    started = time.perf_counter()
    for _ in range(_WRITTEN_TOKENS):
        token = _advance(model, token, slot)
    return _WRITTEN_TOKENS / (time.perf_counter() - started)


def _advance(model: LoadedDecoder, ids: mx.array, slot: Slot) -> mx.array:
    batch = Batch([slot])
    hidden = model.model(ids, batch)
    batch.advance(ids.shape[1])
    token = mx.argmax(model.model.logits(hidden[:, -1]), axis=-1)[:, None]
    mx.eval(token)
    return token


def _check_window(window_tokens: int, model: LoadedDecoder) -> None:
    longest = min(model.context_length or _MAX_WINDOW, _MAX_WINDOW)
    if not _MIN_WINDOW <= window_tokens <= longest:
        raise ChoiceInvalid(
            "window", f"{window_tokens} tokens are not between {_MIN_WINDOW} and {longest}, the context of {model.name}"
        )


def _vocab_size(checkpoint: Checkpoint) -> int:
    return int(checkpoint.config["vocab_size"])


def _perplexity(tally: Tally) -> float:
    return math.exp(min(tally.loss / tally.num_tokens, 700.0))


def _evaluation(
    model: LoadedDecoder,
    reference: LoadedDecoder | None,
    text: Text,
    tally: Tally,
    total: int,
    write_speed: float | None,
) -> Evaluation:
    return Evaluation(
        name=model.name,
        num_bytes=model.checkpoint.num_bytes,
        num_parameters=model.num_parameters,
        text=text.name,
        num_tokens=tally.num_tokens,
        total_tokens=total,
        perplexity=_perplexity(tally),
        bits_per_byte=tally.loss / math.log(2) / max(1, tally.num_bytes),
        divergence=None if reference is None else tally.divergence / tally.num_tokens,
        agreement=None if reference is None else tally.num_agreed / tally.num_tokens,
        read_speed=tally.read_tokens / tally.read_seconds,
        write_speed=write_speed,
    )
