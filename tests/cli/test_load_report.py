"""What a person sees of a load."""

import asyncio
from contextlib import contextmanager

from server.load_report import report_load
from server.progress import Progress


def test_a_load_is_told_until_it_is_over_and_a_short_one_not_at_all():
    told = []

    @contextmanager
    def reporting():
        yield told.append

    def loads(steps):
        left = iter(steps)
        return lambda: next(left, None)

    asyncio.run(report_load(loads([(0, 10), (5, 10)]), reporting))
    assert told == []
    asyncio.run(report_load(loads([(done, 10) for done in range(10)]), reporting))
    assert told[-1] == Progress("loading", 9, 10)
    assert len(told) < 10
