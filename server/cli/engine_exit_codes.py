"""Which exit code an error of the engine ends a command with: one table."""

from engine.conversion.errors import OutputBusy, OutputExists, OutputFull
from engine.errors import CheckpointCorrupt, CheckpointUnsupported, ChoiceInvalid, EngineError, ParameterInvalid
from engine.evaluation.errors import TextUnusable, TrainingDiffers, TrainingStopped
from server.exit_codes import BUSY, CORRUPT, DISK_FULL, FAILURE, INTERRUPTED, UNSUPPORTED, USAGE

_CODES: dict[type[EngineError], int] = {
    ChoiceInvalid: USAGE,
    ParameterInvalid: USAGE,
    OutputExists: USAGE,
    TrainingDiffers: USAGE,
    CheckpointCorrupt: CORRUPT,
    TextUnusable: CORRUPT,
    TrainingStopped: INTERRUPTED,
    CheckpointUnsupported: UNSUPPORTED,
    OutputFull: DISK_FULL,
    OutputBusy: BUSY,
}


def code_of(error: EngineError) -> int:
    """The exit code of an error, by its class."""
    return _CODES.get(type(error), FAILURE)
