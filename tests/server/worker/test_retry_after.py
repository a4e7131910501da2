"""When to come back to a full queue, from what it got done."""

import pytest

from server.worker.retry_after import RetryAfter


def retry_after(num_finished: int, seconds: float) -> RetryAfter:
    """The waits of a queue that was empty at 0, and has finished so many requests at even distances."""
    queue = RetryAfter()
    queue.begin(0.0)
    for number in range(num_finished):
        queue.finish((number + 1) * seconds / num_finished)
    return queue


@pytest.mark.parametrize(
    ("num_finished", "seconds", "expected"),
    [(100, 10.0, 1), (10, 50.0, 5), (6, 60.0, 10), (1, 59.0, 59), (0, 7.5, 8), (0, 1000.0, 60), (0, 0.0, 1)],
)
def test_the_wait_is_the_time_one_request_takes_to_leave(num_finished, seconds, expected):
    assert retry_after(num_finished, seconds).seconds(seconds) == expected


def test_only_the_last_minute_counts():
    queue = retry_after(1000, 100.0)
    assert queue.seconds(155.0) == 2  # of 1,000 the last fifty, in a minute
    assert queue.seconds(1000.0) == 60


def test_those_who_are_turned_away_come_back_one_after_the_other():
    queue = retry_after(30, 60.0)
    assert [queue.seconds(60.0) for _ in range(4)] == [2, 4, 6, 8]
    assert queue.seconds(64.0) == 7  # four seconds of the eight have passed, without a request finished
    assert max(queue.seconds(65.0) for _ in range(100)) == 60
    assert queue.seconds(300.0) == 60


def test_an_empty_queue_starts_anew():
    queue = retry_after(1, 50.0)
    assert queue.seconds(50.0) == 50
    queue.begin(60.0)
    assert queue.seconds(60.0) == 1


def test_more_requests_than_are_remembered_keep_their_rate():
    queue = retry_after(100_000, 50.0)
    assert queue.seconds(50.0) == 1
