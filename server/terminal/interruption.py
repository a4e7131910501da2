"""The wish to end long work early, by Ctrl-C. Knows nothing of the work."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from server.terminal.output import note


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Whether the work shall end: the first Ctrl-C asks for it, the second ends the program at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, previous)
        note("Ending; Ctrl-C again ends at once.")

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)
