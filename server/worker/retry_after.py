"""The Retry-After of a full queue, from the pace at which it empties. Knows counts and times; nothing of requests."""

from collections import deque
from math import ceil

WINDOW_SECONDS = 60.0
SHORTEST_SECONDS, LONGEST_SECONDS = 1, 60
_MOST_REMEMBERED = 4096


class RetryAfter:
    """The seconds after which a client that was turned away should try again.

    They follow from the requests finished per second, over the last minute or since the queue was last empty. Each
    client is given a later time than the one before it, so that they do not all come back at once. Times are seconds
    on the caller's clock.
    """

    def __init__(self) -> None:
        self._busy_since = 0.0
        self._finished: deque[float] = deque(maxlen=_MOST_REMEMBERED)
        self._promised = 0.0

    def begin(self, now: float) -> None:
        """Start to count anew: a request has come into an empty queue, whose earlier speed says little."""
        self._busy_since = now
        self._finished.clear()
        self._promised = 0.0

    def finish(self, now: float) -> None:
        """Count a request that has left the queue, whatever its end."""
        self._finished.append(now)

    def seconds(self, now: float) -> int:
        """The wait for one more client that is turned away, between 1 and 60 seconds."""
        earliest = now + self._seconds_per_request(now)
        self._promised = max(earliest, min(self._promised + earliest - now, now + LONGEST_SECONDS))
        return max(SHORTEST_SECONDS, min(ceil(self._promised - now), LONGEST_SECONDS))

    def _seconds_per_request(self, now: float) -> float:
        while self._finished and self._finished[0] < now - WINDOW_SECONDS:
            self._finished.popleft()
        full = len(self._finished) == _MOST_REMEMBERED
        since = self._finished[0] if full else max(self._busy_since, now - WINDOW_SECONDS)
        return (now - since) / max(1, len(self._finished))
