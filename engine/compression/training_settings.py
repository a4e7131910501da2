"""The settings of a training run, as plain values. Imports no mlx."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """The settings of a training run.

    steps: at most; minutes: at most, None for as long as the steps take
    learning_rate: the highest; it rises over the first twentieth, and falls to a tenth along a cosine
    temperature: softens both distributions; cross_entropy: weight of the text's own loss, 0 to 1
    window_tokens: of each row; rows: per step; rows_at_once: whose gradients are computed together
    tables: train token vectors and output head too; None does so for a student that has learned nothing
    save_seconds: between saved steps
    """

    steps: int = 200
    minutes: float | None = None
    learning_rate: float = 2e-4
    temperature: float = 1.0
    cross_entropy: float = 0.0
    weight_decay: float = 0.01
    window_tokens: int = 256
    rows: int = 4
    rows_at_once: int = 1
    tables: bool | None = None
    seed: int = 0
    save_seconds: float = 120.0
