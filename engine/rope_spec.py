"""Rotary positions as plain numbers. Knows no configuration and no arrays."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding as plain numbers (Su et al. 2021, arXiv:2104.09864).

    kind: "default", "linear", "dynamic", "yarn", "llama3", "longrope" or "proportional"
    dims: rotated dimensions of a head; base: theta
    original_length: tokens the model was trained on before scaling
    short_factors, long_factors: one divisor per pair of dimensions (longrope)
    turning_pairs: the others stand still (proportional)
    attention_factor: multiplies rotated queries and keys; None takes the kind's own rule
    """

    dims: int
    base: float
    kind: str = "default"
    factor: float = 1.0
    original_length: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    turning_pairs: int = 0
