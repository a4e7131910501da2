"""A GGUF's rotary scaling as config.json's `rope_scaling`. Knows the numbers; knows nothing of arrays."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine.checkpoint.gguf_settings import GGUFSettings
from engine.errors import CheckpointUnsupported

Config = Mapping[str, Any]
_STANDS_STILL = 1e29  # a factor of the rotation's period from which on a pair of dimensions does not turn

_KINDS = ("none", "linear", "yarn")
# The bands of every Llama 3.1, 3.2 and 3.3; llama.cpp's converter writes only the factors that follow from them.
_LLAMA3_BANDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def read_rope_scaling(settings: GGUFSettings, factors: Sequence[float], base: float) -> dict[str, Any] | None:
    """The scaling, or None when there is none.

    factors: of `rope_freqs`, one divisor of the rotation's speed per pair of dimensions; empty when the file has none
    Raises CheckpointUnsupported and CheckpointCorrupt.
    """
    factor_key = "rope.scaling.factor" if settings.has("rope.scaling.factor") else "rope.scale_linear"
    default = "linear" if settings.has(factor_key) else "none"
    kind = settings.choice("rope.scaling.type", _KINDS, default)
    scaled = kind != "none" and settings.has(factor_key)
    if factors and scaled:
        raise CheckpointUnsupported("rope.scaling.type", kind, "none, beside a tensor of rotary factors")
    if factors:
        return _llama3(factors, base) or _explicit(factors)
    if not scaled:
        return None
    factor = settings.number(factor_key)
    return _yarn(settings, factor) if kind == "yarn" else {"rope_type": "linear", "factor": factor}


def _yarn(settings: GGUFSettings, factor: float) -> dict[str, Any]:
    """llama.cpp multiplies YaRN's usual magnitude by attn_factor; Hugging Face's attention_factor is the product."""
    scaling = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": settings.count(
            "rope.scaling.original_context_length", settings.count("context_length")
        ),
        "beta_fast": settings.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": settings.number("rope.scaling.yarn_beta_slow", 1.0),
    }
    if settings.has("rope.scaling.attn_factor"):
        scaling["attention_factor"] = settings.number("rope.scaling.attn_factor") * (0.1 * math.log(factor) + 1.0)
    return scaling


def _llama3(factors: Sequence[float], base: float) -> dict[str, Any] | None:
    """The parameters that give these factors, if Llama 3's bands and some factor do."""
    scaling = {"rope_type": "llama3", "factor": max(factors)} | _LLAMA3_BANDS
    expected = (_llama3_factor(index / len(factors), base, max(factors)) for index in range(len(factors)))
    same = all(math.isclose(*pair, rel_tol=1e-4) for pair in zip(factors, expected, strict=True))
    return scaling if same else None


def _llama3_factor(exponent: float, base: float, factor: float) -> float:
    """The divisor of one pair's frequency; exponent: 0 for the fastest pair, towards 1 for the slowest."""
    low, high, length = _LLAMA3_BANDS.values()
    wavelength = 2 * math.pi * math.pow(base, exponent)
    if wavelength < length / high:
        return 1.0
    if wavelength > length / low:
        return factor
    smooth = (length / wavelength - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)


def _explicit(factors: Sequence[float]) -> dict[str, Any]:
    """Any other factors as they are: LongRoPE's form, with the same list for short and long texts."""
    return {
        "rope_type": "longrope",
        "short_factor": list(factors),
        "long_factor": list(factors),
        "attention_factor": 1.0,
    }


def yarn_magnitude(settings: GGUFSettings, scaling: Config | None, factor: float) -> dict[str, Any] | None:
    """The scaling with both of YaRN's magnitudes, which are one number in all published models.

    factor: from the number that is stored to YaRN's
    """
    if scaling is None or not settings.has("rope.scaling.yarn_log_multiplier"):
        return None if scaling is None else dict(scaling)
    magnitude = settings.number("rope.scaling.yarn_log_multiplier") * factor
    return {**scaling, "mscale": magnitude, "mscale_all_dim": magnitude}


def proportional(config: Config) -> dict[str, Any]:
    """The full layers' rotation, whose pairs stand still where a factor is as good as infinite."""
    factors = (config["rope_scaling"] or {}).get("short_factor", [1.0])
    turning = sum(factor == 1.0 for factor in factors)
    if any(factor < _STANDS_STILL for factor in factors[turning:]):
        raise CheckpointUnsupported("rope_freqs", "factors", "factors of 1, and then of 1e30")
    part = turning / len(factors)
    return {"rope_type": "proportional", "rope_theta": config["rope_theta"], "partial_rotary_factor": part}
