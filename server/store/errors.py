"""The failures between a model's name and a whole model on disk. Knows nothing of HTTP.

StoreError             str() is one sentence fit for a person; exit_code is the shell's
├── ModelIdInvalid     not a name that any model can have
├── ModelNotFound      no model of that name is here
├── ModelExists        another model has that name already
├── ModelUnfit         what lies there is no model that Bramley could use
├── ModelCorrupt       a file is not what it should be
├── PullFailed         the source did not give the model
├── StoreUnusable      the models' folder cannot be written
├── DiskFull
└── StoreBusy          another process is at work on the same model
"""

from collections.abc import Sequence
from difflib import get_close_matches

from server.exit_codes import BUSY, CORRUPT, DISK_FULL, USAGE, CommandFailed
from server.sizes import megabytes, shown


class StoreError(CommandFailed):
    """Base of what the store raises on purpose."""


class ModelIdInvalid(StoreError):
    """The text can be no model's name."""

    exit_code = USAGE

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{shown(name)} is not a model name: one looks like smollm2-135m, org/name or, for one of several GGUF "
            "files, org/name:Q4_0."
        )


class ModelNotFound(StoreError):
    """No model has this name. `nearest` are names that look like it, `available` all that would work."""

    def __init__(self, name: str, available: Sequence[str]) -> None:
        self.name = name
        self.available = tuple(available)
        self.nearest = tuple(get_close_matches(name, self.available, n=3, cutoff=0.5))
        hint = f"The nearest names are {', '.join(self.nearest)}" if self.nearest else _known(self.available)
        super().__init__(f"There is no model {shown(name)} here. {hint}.")


class ModelExists(StoreError):
    """Another model already has the name that this one would get."""

    def __init__(self, model_id: str, source: str) -> None:
        super().__init__(
            f"The store already has a model {model_id}, from {source}: remove that one first, or rename the new one."
        )


class ModelUnfit(StoreError):
    """There is something, but no model that could be served."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{shown(name)} {reason}.")


class ModelCorrupt(StoreError):
    """A file differs from its checksum or its size. `file` is a bare name."""

    exit_code = CORRUPT

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} is damaged: {reason}.")
        self.file = file


class PullFailed(StoreError):
    """The source did not give the model; the message is a whole sentence."""


class StoreUnusable(StoreError):
    """The models' folder cannot be used. `reason` is the operating system's."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The models' folder cannot be used ({reason}): choose another with --models-dir.")


class DiskFull(StoreError):
    """There is too little room. Sizes are bytes; need_bytes is None when the disk filled up on the way."""

    exit_code = DISK_FULL

    def __init__(self, need_bytes: int | None, have_bytes: int) -> None:
        if need_bytes is None:
            super().__init__("The disk is full: make room and try again.")
        else:
            super().__init__(f"{megabytes(need_bytes)} of disk space are needed, and {megabytes(have_bytes)} are free.")
        self.need_bytes = need_bytes
        self.have_bytes = have_bytes


class StoreBusy(StoreError):
    """Another process is fetching or removing this model."""

    exit_code = BUSY

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Another process is at work on {model_id}: wait for it, or end it.")


def _known(available: Sequence[str]) -> str:
    return f"Known names are {', '.join(available[:8])}" if available else "The store is empty"
