"""When to come back to a full queue, from what it got done."""

import pytest

from server.worker.retry_after import Drain


def drain_of(num_finished: int, seconds: float) -> Drain:
    """A queue that was empty at 0, and has finished so many requests at even distances."""
    drain = Drain()
    drain.begin(0.0)
    for number in range(num_finished):
        drain.finish((number + 1) * seconds / num_finished)
    return drain


@pytest.mark.parametrize(
    ("num_finished", "seconds", "expected"),
    [(100, 10.0, 1), (10, 50.0, 5), (6, 60.0, 10), (1, 59.0, 59), (0, 7.5, 8), (0, 1000.0, 60), (0, 0.0, 1)],
)
def test_the_wait_is_the_time_one_request_takes_to_leave(num_finished, seconds, expected):
    assert drain_of(num_finished, seconds).retry_seconds(seconds) == expected


def test_only_the_last_minute_counts():
    drain = drain_of(1000, 100.0)
    assert drain.retry_seconds(155.0) == 2  # of 1,000 the last fifty, in a minute
    assert drain.retry_seconds(1000.0) == 60


def test_those_who_are_turned_away_come_back_one_after_the_other():
    drain = drain_of(30, 60.0)
    assert [drain.retry_seconds(60.0) for _ in range(4)] == [2, 4, 6, 8]
    assert drain.retry_seconds(64.0) == 7  # four seconds of the eight have passed, without a request finished
    assert max(drain.retry_seconds(65.0) for _ in range(100)) == 60
    assert drain.retry_seconds(300.0) == 60


def test_an_empty_queue_starts_anew():
    drain = drain_of(1, 50.0)
    assert drain.retry_seconds(50.0) == 50
    drain.begin(60.0)
    assert drain.retry_seconds(60.0) == 1


def test_more_requests_than_are_remembered_keep_their_rate():
    drain = drain_of(100_000, 50.0)
    assert drain.retry_seconds(50.0) == 1
