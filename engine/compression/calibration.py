"""Have a model read windows of text for the sake of those who watch its parts."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import mlx.core as mx

from engine.evaluation.decoder import LoadedDecoder
from engine.progress import Progress, Report

_BATCH_TOKENS = 1024


def read_all(
    decoder: LoadedDecoder,
    windows: Sequence[Sequence[int]],
    stage: str,
    watched: Callable[[], list[mx.array]],
    report: Report,
) -> None:
    """Read every window, and evaluate after each batch what is being watched. Rows of a batch have no padding."""
    done, total = 0, sum(len(window) for window in windows)
    for batch in _batches(windows):
        hidden = decoder.hidden(mx.array(batch), [len(row) for row in batch])
        mx.eval(hidden, watched())
        done += sum(len(row) for row in batch)
        report(Progress(stage, done, total))


def _batches(windows: Sequence[Sequence[int]]) -> Iterator[list[list[int]]]:
    for length, group in groupby(windows, key=len):
        same, rows = [list(window) for window in group], max(1, _BATCH_TOKENS // length)
        yield from (same[first : first + rows] for first in range(0, len(same), rows))
