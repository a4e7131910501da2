"""Estimate the time of a step, and from it the prompt tokens that a step may prefill. Knows counts and seconds."""

from dataclasses import dataclass, field

_FIRST_CHUNK = 64  # before anything is known of the machine
_SMALLEST_CHUNK = 16
_SHARE_OF_GAP = 0.75  # what is aimed at, so that a slower step than the last still keeps the gap
_ALONE_SECONDS = 0.5  # of a step in which no sequence decodes: arrivals and cancels are looked at between steps


@dataclass(slots=True)
class StepTime:
    """A running estimate of the seconds that a decode step takes, and each prompt token that is prefilled with it.

    max_gap_seconds: between two tokens of a running stream
    chunk_tokens: at most, whatever the time
    """

    max_gap_seconds: float
    chunk_tokens: int
    _decode_seconds: dict[int, float] = field(default_factory=dict)
    _token_seconds: float | None = None

    def observe(self, num_decoded: int, num_prefilled: int, seconds: float) -> None:
        """Learn from a step that decoded sequences and prefilled prompt tokens."""
        if num_prefilled == 0:
            known = self._decode_seconds.get(num_decoded, seconds)
            self._decode_seconds[num_decoded] = 0.8 * known + 0.2 * seconds
        elif num_prefilled >= _SMALLEST_CHUNK:
            cost = max(seconds - self._decode(num_decoded), 1e-7) / num_prefilled
            known = cost if self._token_seconds is None else self._token_seconds
            # A step that took longer than expected weighs more: the next one must not.
            weight = 0.5 if cost > known else 0.2
            self._token_seconds = (1 - weight) * known + weight * cost

    def budget(self, num_decoded: int) -> int:
        """Prompt tokens that a step with this many decoding sequences may prefill."""
        if self._token_seconds is None:
            return min(self.chunk_tokens, _FIRST_CHUNK)
        alone = not num_decoded
        seconds = _ALONE_SECONDS if alone else _SHARE_OF_GAP * self.max_gap_seconds - self._decode(num_decoded)
        return max(_SMALLEST_CHUNK, min(self.chunk_tokens, int(seconds / self._token_seconds)))

    def _decode(self, num_decoded: int) -> float:
        """Seconds of a decode step, from the number of rows nearest to this one."""
        if not num_decoded or not self._decode_seconds:
            return 0.0
        nearest = min(self._decode_seconds, key=lambda known: abs(known - num_decoded))
        return self._decode_seconds[nearest]
