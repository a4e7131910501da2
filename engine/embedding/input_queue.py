"""The queue of inputs, and the batches cut from it. Knows token counts; knows nothing of arrays, text or HTTP."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from engine.embedding.encoding import EncodingRequest, TokenInput

_LEAST_FILLED = 2  # a row is at least half text: shorter inputs wait for a batch of their own size


@dataclass(frozen=True, slots=True)
class QueuedInput:
    """One input of a request, in the order of arrival."""

    request: EncodingRequest
    index: int
    arrival: int

    @property
    def tokens(self) -> TokenInput:
        """The input itself."""
        return self.request.inputs[self.index]

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.tokens.ids)


class InputQueue:
    """Inputs that wait, sorted by length, and the turns of their requests.

    Requests take turns in giving a batch its longest input; the batch is filled with what is little shorter, whoever's
    it is. So nobody waits for ever, and a short request beside one of thousands of inputs waits for one batch.
    """

    def __init__(self) -> None:
        self._sorted: list[QueuedInput] = []
        self._turns: dict[str, list[QueuedInput]] = {}
        self._num_arrived = 0
        self._begun: set[str] = set()

    def add(self, request: EncodingRequest) -> None:
        """Queue all inputs of a request."""
        own = sorted(self._queued(request), key=_order)
        self._turns[request.request_id] = own
        self._sorted.extend(own)
        self._sorted.sort(key=_order)

    def remove(self, request_id: str) -> None:
        """Forget a request; unknown ones are ignored."""
        self._begun.discard(request_id)
        if self._turns.pop(request_id, None):
            self._sorted = [each for each in self._sorted if each.request.request_id != request_id]

    def next_batch(self, max_tokens: int) -> list[QueuedInput]:
        """Take the inputs of the next batch, longest first; empty when nothing waits.

        max_tokens: padding included; a single input may be longer
        """
        if not self._turns:
            return []
        longest = next(iter(self._turns.values()))[-1]
        batch = [longest, *self._companions(longest, max_tokens // longest.length - 1)]
        self._take(batch)
        return batch

    def holds(self, request_id: str) -> bool:
        """True while an input of this request waits."""
        return request_id in self._turns

    @property
    def num_inputs(self) -> int:
        """Inputs that wait."""
        return len(self._sorted)

    @property
    def num_begun(self) -> int:
        """Requests of which some inputs were taken and others wait."""
        return len(self._begun)

    @property
    def num_untouched(self) -> int:
        """Requests of which all inputs wait."""
        return len(self._turns) - len(self._begun)

    def _queued(self, request: EncodingRequest) -> Iterator[QueuedInput]:
        for index in range(len(request.inputs)):
            self._num_arrived += 1
            yield QueuedInput(request, index, self._num_arrived)

    def _companions(self, longest: QueuedInput, room: int) -> list[QueuedInput]:
        """The inputs next to the longest in length, `room` at most."""
        if room <= 0:
            return []
        shortest = -(-longest.length // _LEAST_FILLED)
        start = bisect_left(self._sorted, shortest, key=_length)
        stop = bisect_right(self._sorted, longest.length, key=_length)
        near = self._sorted[max(start, stop - room - 1) : stop]
        return [each for each in reversed(near) if each is not longest][:room]

    def _take(self, batch: list[QueuedInput]) -> None:
        taken = {id(each) for each in batch}
        lengths = (batch[-1].length, batch[0].length)
        start = bisect_left(self._sorted, min(lengths), key=_length)
        stop = bisect_right(self._sorted, max(lengths), key=_length)
        self._sorted[start:stop] = [each for each in self._sorted[start:stop] if id(each) not in taken]
        for request_id in dict.fromkeys(each.request.request_id for each in batch):
            left = [each for each in self._turns.pop(request_id) if id(each) not in taken]
            self._begun.discard(request_id)
            if left:  # whoever was served has its next turn after the others
                self._turns[request_id] = left
                self._begun.add(request_id)


def _length(queued: QueuedInput) -> int:
    return queued.length


def _order(queued: QueuedInput) -> tuple[int, int]:
    """By length; of equals the oldest last, where batches are taken from."""
    return queued.length, -queued.arrival
