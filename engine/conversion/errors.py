"""Errors of writing a model folder, as classes that carry numbers.

ConversionError (an EngineError)
├── OutputExists       something lies where the new model would
├── OutputBusy         another process is writing to the same place
├── OutputFull         the disk has no room
└── OutputUnwritable   the operating system refuses
"""

from engine.errors import EngineError


class ConversionError(EngineError):
    """Base of what a conversion raises on purpose, besides the CheckpointErrors of its source."""


class OutputExists(ConversionError):
    """Something lies where the new model would."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is there already: choose another name, or move it away first")


class OutputBusy(ConversionError):
    """Another process is writing to the same place."""

    def __init__(self, name: str) -> None:
        super().__init__(f"another process is writing {name}: wait for it, or end it")


class OutputFull(ConversionError):
    """The disk has no room. Sizes are bytes; need_bytes is None when it filled up on the way."""

    def __init__(self, need_bytes: int | None, have_bytes: int) -> None:
        if need_bytes is None:
            super().__init__("the disk is full: make room and try again")
        else:
            super().__init__(
                f"{need_bytes / 1e6:.0f} MB of disk space are needed, and {have_bytes / 1e6:.0f} MB are free"
            )
        self.need_bytes = need_bytes
        self.have_bytes = have_bytes


class OutputUnwritable(ConversionError):
    """The operating system refuses. `reason` is its own."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be written ({reason})")
