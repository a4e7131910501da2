"""How far a model's load has come, for people: asked again and again until it is there. Knows no process."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic

from engine.progress import Progress, Report

# A load that is over before is not worth a line.
PATIENCE_SECONDS = 0.5
_POLL_SECONDS = 0.05

# Bytes that are read and bytes in all, while the model loads; None when it does not.
Loading = Callable[[], tuple[int, int] | None]


async def report_load(
    loading: Loading,
    reporting: Callable[[], AbstractContextManager[Report]],
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Report until the model is loaded, or cannot be.

    reporting: opens what shows the reports, once there is something to show
    patience_seconds: for how long nothing is shown
    """
    patient_until = monotonic() + patience_seconds
    while monotonic() < patient_until:
        if loading() is None:
            return
        await asyncio.sleep(_POLL_SECONDS)
    with reporting() as report:
        while (so_far := loading()) is not None:
            report(Progress("loading", *so_far, "bytes"))
            await asyncio.sleep(_POLL_SECONDS)
