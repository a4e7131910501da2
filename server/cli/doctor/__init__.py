"""Look at a machine before, or instead of, serving on it: what is there, what is wrong, how to mend it. No MLX here.

Each file looks at one side and returns findings; none of them loads a model, starts a process or asks the network.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.cli.doctor.finding import Finding
    from server.settings import Settings


def examine(settings: "Settings") -> Sequence["Finding"]:
    """All findings, the machine's first."""
    from server.cli.doctor import libraries, machine, network, storage  # noqa: PLC0415  # `doctor` alone needs them

    return [
        *machine.look(),
        *libraries.look(settings),
        *storage.look(settings),
        *network.look(settings),
        *machine.other_mlx_processes(),
    ]
