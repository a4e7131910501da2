"""The memory of this machine, as far as this process may use it. Imports no mlx."""

import contextlib
import os
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int:
    """The memory of this machine, or of the container that this process may not grow out of."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        return min(installed, int(_CONTROL_GROUP.read_text()))
    return installed
