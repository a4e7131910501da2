"""Streams of OpenAI's older kind: nameless events of one shape, usage on demand, an end mark. Knows no routes."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from server.api.shared.stream import event
from server.errors import envelope_of
from server.generation.continuation import Delta
from server.wire.sampling import StreamOptions
from server.wire.usage import Usage

DONE = b"data: [DONE]\n\n"


class ChunkedReply:
    """The half of a Reply that completions and chat share."""

    def __init__(self, options: StreamOptions) -> None:
        self._options = options

    @abstractmethod
    def chunks(self, delta: Delta) -> Iterable[dict[str, Any]]:
        """What is sent for one delta."""

    @abstractmethod
    def usage_chunk(self, usage: Usage) -> Mapping[str, Any]:
        """What is sent after the last delta to those who asked."""

    def events(self, delta: Delta, usage: Callable[[], Usage]) -> bytes:
        """The chunks of one delta."""
        extra = {"usage": usage()} if self._options.continuous_usage_stats else {}
        return b"".join(event({**chunk, **extra}) for chunk in self.chunks(delta))

    def end(self, usage: Usage) -> Iterator[bytes]:
        """Usage, where it was asked for, and the end mark."""
        if self._options.include_usage:
            yield event(self.usage_chunk(usage))
        yield DONE

    def failure(self, error: Exception) -> bytes:
        """An error in the place of a chunk, and the end mark."""
        return event(envelope_of(error)) + DONE
