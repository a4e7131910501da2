"""The time that a prefill takes, estimated from earlier prompts. Knows tokens and seconds; knows nothing of models."""

# The weight of an observation after each further one: about twenty observations make the estimate.
_FADING = 0.95


class PrefillRate:
    """A straight line through observed times, newer ones weighing more: a time per prompt plus a time per token."""

    def __init__(self) -> None:
        self._weight = self._tokens = self._seconds = 0.0
        self._tokens_squared = self._tokens_seconds = 0.0

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Count a prefill. num_tokens: tokens of the prompt that were computed; seconds: until the first new token."""
        self._weight = _FADING * self._weight + 1
        self._tokens = _FADING * self._tokens + num_tokens
        self._seconds = _FADING * self._seconds + seconds
        self._tokens_squared = _FADING * self._tokens_squared + num_tokens**2
        self._tokens_seconds = _FADING * self._tokens_seconds + num_tokens * seconds

    def seconds(self, num_tokens: int) -> float | None:
        """The expected time of a prefill of this length; None where no prefill has been observed."""
        if not self._weight:
            return None
        spread = self._weight * self._tokens_squared - self._tokens**2
        slope = 0.0
        if spread > 1e-6 * self._weight**2:
            slope = (self._weight * self._tokens_seconds - self._tokens * self._seconds) / spread
        mean = self._seconds / self._weight
        if slope <= 0:  # all were equally long, or chance outweighs length
            return mean * max(1.0, num_tokens * self._weight / self._tokens) if self._tokens else mean
        start = mean - slope * self._tokens / self._weight
        if start < 0:  # a line from nothing
            return num_tokens * self._seconds / self._tokens
        return start + slope * num_tokens
