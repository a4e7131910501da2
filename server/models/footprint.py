"""How much memory a model takes: guessed from its files at first, then measured, and remembered over restarts.

Knows bytes and a small JSON file; knows nothing of processes. The guess and the measure leave out keys and values: the
share of those is a limit that the worker keeps to.
"""

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from engine.machine import memory_bytes
from server.errors import ModelTooLarge

# The process itself: interpreter, MLX, buffers of a step.
OVERHEAD_BYTES = 250 * 10**6
# MLX computes in float32 on the CPU, where published weights have 16 bits.
_GROWTH = 1.0 if sys.platform == "darwin" else 2.0
_BUDGET_SHARE = 0.75
# Keys and values without a limit of their own get this part of the budget, or what is left, but never less than this.
_KV_SHARE = 0.25
_LEAST_KV_BYTES = 64 * 10**6
_MOST_REMEMBERED = 512


class Measured(msgspec.Struct, frozen=True):
    """The memory and times of a model's last run.

    size_bytes: of its files, to know them by
    base_bytes: of its process without keys and values
    """

    size_bytes: int
    base_bytes: int
    load_seconds: float
    context_length: int


class Measurements:
    """A small file of what was measured, by model and way of running it. A damaged file is an empty one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._by_run: dict[str, Measured] | None = None

    def get(self, run: str, size_bytes: int) -> Measured | None:
        """The measurements of the model with these files."""
        found = self._known().get(run)
        return found if found is not None and found.size_bytes == size_bytes else None

    def put(self, run: str, measured: Measured) -> None:
        """Remember, also on disk: whole or not at all. A disk that cannot be written costs a worse guess next time."""
        mine, self._by_run = self._known(), None
        known = self._known()  # anew: another server of this home may have written meanwhile
        self._by_run = known = {**mine, **known}
        known.pop(run, None)
        known[run] = measured
        while len(known) > _MOST_REMEMBERED:
            del known[next(iter(known))]
        if self._path is None:
            return
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(known))
            temporary.replace(self._path)
        with contextlib.suppress(OSError):
            temporary.unlink()  # where the disk was full

    def _known(self) -> dict[str, Measured]:
        if self._by_run is None:
            self._by_run = {}
            if self._path is not None:
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    self._by_run = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Measured])
        return self._by_run


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes that one model may take.

    base_bytes: weights and process
    kv_bytes: keys and values of running requests; prefix_bytes: of earlier ones
    """

    base_bytes: int
    kv_bytes: int
    prefix_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.base_bytes + self.kv_bytes + self.prefix_bytes


def guess(size_bytes: int) -> int:
    """Bytes of a process that has these files loaded, before anybody has measured."""
    return int(_GROWTH * size_bytes) + OVERHEAD_BYTES


def share(name: str, base_bytes: int, budget_bytes: int, kv_bytes: int | None, prefix_bytes: int | None) -> Share:
    """The bytes that a model gets of the budget. Keys and values take the rest where nobody has set their size.

    Raises ModelTooLarge.
    """
    wanted = int(_KV_SHARE * budget_bytes) if kv_bytes is None else kv_bytes + (kv_bytes // 3)
    if prefix_bytes is not None:
        wanted = prefix_bytes + (int(0.75 * _KV_SHARE * budget_bytes) if kv_bytes is None else kv_bytes)
    least = wanted if kv_bytes is not None else min(wanted, _LEAST_KV_BYTES + (prefix_bytes or 0))
    if base_bytes + least > budget_bytes:
        raise ModelTooLarge(name, base_bytes + least, budget_bytes)
    given = min(wanted, budget_bytes - base_bytes)
    prefixes = given // 4 if prefix_bytes is None else prefix_bytes
    return Share(base_bytes, given - prefixes, prefixes)


def default_budget() -> int:
    """The bytes that all models may take together where nobody has set a budget."""
    return int(_BUDGET_SHARE * memory_bytes())


def resident_bytes(process_id: int | None) -> int:
    """Memory of a process; 0 when it is not there."""
    if process_id is None:
        return 0
    try:
        return int(psutil.Process(process_id).memory_info().rss)
    except psutil.Error:
        return 0


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
