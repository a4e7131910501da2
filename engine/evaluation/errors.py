"""Errors of measuring, pruning and teaching a model, besides the errors of checkpoints and of writing.

CompressionError (an EngineError)
├── TextUnusable         the text cannot be read, or is too short
├── ModelsDiffer         two models that do not share a vocabulary cannot be compared
├── ModelUnfit           this family, or this form of weights, is not one that can be worked on
├── OutputNotFinite      the model's output is no number
├── TrainingDiverged     the loss is no number any more
├── TrainingStopped      it was asked to end; what it has done is saved
├── TrainingDiffers      what an interrupted run has left was begun with other settings
└── MemoryTooSmall       the machine has less memory than training needs
"""

from engine.errors import EngineError


class CompressionError(EngineError):
    """Base of what this package raises on purpose."""


class TextUnusable(CompressionError):
    """A text cannot be read, or is too short."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the text {name} cannot be used: {reason}")


class ModelsDiffer(CompressionError):
    """Two models that do not share a vocabulary cannot be compared token by token."""

    def __init__(self, first: str, second: str, reason: str) -> None:
        super().__init__(f"{first} and {second} cannot be compared: {reason}")


class ModelUnfit(CompressionError):
    """This family, or this form of weights, is not one that can be worked on."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")


class OutputNotFinite(CompressionError):
    """The model's output is no number, after so many tokens."""

    def __init__(self, name: str, num_tokens: int) -> None:
        super().__init__(
            f"the output of {name} is not a finite number after {num_tokens} tokens: its weights are at fault"
        )
        self.num_tokens = num_tokens


class TrainingDiverged(CompressionError):
    """The loss is no number any more; nothing of that step is kept."""

    def __init__(self, step: int, learning_rate: float) -> None:
        super().__init__(
            f"the loss is not a finite number at step {step}: a lower learning rate than {learning_rate:g} helps"
        )
        self.step = step


class TrainingStopped(CompressionError):
    """Training was asked to end. The step it has reached is saved."""

    def __init__(self, step: int) -> None:
        done = f"after step {step}; the same command goes on from there" if step else "before its first step"
        super().__init__(f"training has ended {done}")
        self.step = step


class TrainingDiffers(CompressionError):
    """An interrupted run was begun with other settings. `setting` is the first that differs."""

    def __init__(self, name: str, setting: str) -> None:
        super().__init__(
            f"an interrupted run for {name} was begun with another {setting}: repeat its settings, or start afresh"
        )
        self.setting = setting


class MemoryTooSmall(CompressionError):
    """The machine has less memory than training needs. Sizes are bytes."""

    def __init__(self, need_bytes: int, have_bytes: int) -> None:
        super().__init__(
            f"training needs about {need_bytes / 1e9:.1f} GB of memory, and {have_bytes / 1e9:.1f} GB are free"
        )
        self.need_bytes = need_bytes
        self.have_bytes = have_bytes
