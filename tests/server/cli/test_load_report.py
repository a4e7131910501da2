"""What a person sees of a load."""

import asyncio
from contextlib import contextmanager

from engine.progress import Progress
from server.terminal.load_report import report_load


def test_a_load_is_told_until_it_is_over_and_a_short_one_not_at_all():
    told = []

    @contextmanager
    def reporting():
        yield told.append

    def loads(steps):
        left = iter(steps)
        return lambda: next(left, None)

    steps = [(0, 10), (5, 10)]
    asyncio.run(report_load(loads(steps), reporting, patience_seconds=60))
    assert told == []
    asyncio.run(report_load(loads(steps), reporting, patience_seconds=0))
    assert told == [Progress("loading", *step, "bytes") for step in steps]
