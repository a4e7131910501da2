"""How far a pull has come, as one value. Knows nothing of terminals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["waiting for another process", "downloading", "unpacking", "copying", "verifying"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of the stage that are done, of how many; a total of 0 is unknown."""

    stage: Stage
    done_bytes: int = 0
    total_bytes: int = 0


Report = Callable[[Progress], None]
