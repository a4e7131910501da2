"""Rotary positions with every published scaling, from plain numbers."""

import math
from collections.abc import Sequence

import mlx.core as mx

from engine.attention.qkv import Rotation
from engine.config import RopeSpec

_MOST_ROTATIONS = 64  # of different lengths that are kept


class Rope:
    """Rotate pairs of a head's dimensions by an angle that grows with the position.

    The angle of pair i at position p is p / periods[i]. "dynamic" and "longrope" choose their periods by the length a
    request may reach, once per request: changing them midway would contradict the keys already stored.
    """

    def __init__(self, spec: RopeSpec, *, interleaved: bool = False) -> None:
        self._spec = spec
        self._interleaved = interleaved
        self._magnitude = _magnitude(spec)
        self._by_length = spec.kind in ("dynamic", "longrope")
        self._rotations: dict[int, Rotation] = {}

    def __call__(self, x: mx.array, offsets: int | mx.array, planned_lengths: Sequence[int]) -> mx.array:
        """Rotate queries or keys.

        x: (rows, heads, length, head_dim)
        offsets: position of the first token, one for all rows or (rows,)
        planned_lengths: tokens each row may reach
        """
        rotation = self.rotation(planned_lengths)
        if rotation is not None:
            return rotation.at(offsets).apply(x)
        starts = [offsets] * len(planned_lengths) if isinstance(offsets, int) else list(offsets)
        rotated = [
            self._rotation_for(length).at(starts[i]).apply(x[i : i + 1]) for i, length in enumerate(planned_lengths)
        ]
        return mx.concatenate(rotated, axis=0)

    def rotation(self, planned_lengths: Sequence[int]) -> Rotation | None:
        """The rotation as a value, for rows at position 0; None where the rows rotate at different speeds."""
        if not self._by_length:
            return self._rotation_for(0)
        found = {id(each): each for each in map(self._rotation_for, planned_lengths)}
        return next(iter(found.values())) if len(found) == 1 else None

    def _rotation_for(self, length: int) -> Rotation:
        key = self._length_class(length)
        if key not in self._rotations:
            if len(self._rotations) > _MOST_ROTATIONS:
                self._rotations.clear()
            periods = mx.array(_periods(self._spec, length))
            self._rotations[key] = Rotation(periods, 0, self._interleaved, self._magnitude)
        return self._rotations[key]

    def _length_class(self, length: int) -> int:
        """One number for all lengths that share their periods."""
        if not self._by_length:
            return 0
        if self._spec.kind == "longrope":
            return int(length > self._spec.original_length)
        return length if length > self._spec.original_length else 0


def _periods(spec: RopeSpec, length: int) -> list[float]:
    plain = [spec.base ** (2 * i / spec.dims) for i in range(spec.dims // 2)]
    if spec.kind in ("linear", "proportional"):
        turning = spec.turning_pairs if spec.kind == "proportional" else len(plain)
        return [period * spec.factor if pair < turning else math.inf for pair, period in enumerate(plain)]
    if spec.kind == "dynamic":
        return _dynamic_periods(spec, length)
    if spec.kind == "yarn":
        return _yarn_periods(spec, plain)
    if spec.kind == "llama3":
        return [_llama3_period(spec, period) for period in plain]
    if spec.kind == "longrope":
        factors = spec.long_factors if length > spec.original_length else spec.short_factors
        return [period * factor for period, factor in zip(plain, factors, strict=True)]
    return plain


def _dynamic_periods(spec: RopeSpec, length: int) -> list[float]:
    """NTK-aware scaling: the base grows with the length past the trained one."""
    reach = max(length, spec.original_length)
    growth = spec.factor * reach / spec.original_length - (spec.factor - 1)
    base = spec.base * growth ** (spec.dims / (spec.dims - 2))
    return [float(base ** (2 * i / spec.dims)) for i in range(spec.dims // 2)]


def _yarn_periods(spec: RopeSpec, plain: list[float]) -> list[float]:
    """YaRN (Peng et al. 2023, arXiv:2309.00071): fast pairs stay, slow pairs are stretched, a ramp between."""

    def pair_with(rotations: float) -> float:
        turns = spec.original_length / (rotations * 2 * math.pi)
        return spec.dims * math.log(turns) / (2 * math.log(spec.base))

    low, high = pair_with(spec.beta_fast), pair_with(spec.beta_slow)
    if spec.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.dims - 1)
    width = max(high - low, 0.001)
    periods = []
    for i, period in enumerate(plain):
        ramp = min(max((i - low) / width, 0.0), 1.0)
        frequency = (1 - ramp) / period + ramp / (period * spec.factor)
        periods.append(1 / frequency)
    return periods


def _llama3_period(spec: RopeSpec, period: float) -> float:
    """Llama 3.1's bands: short wavelengths stay, long ones are stretched, a smooth step between."""
    wavelength = 2 * math.pi * period
    if wavelength < spec.original_length / spec.high_freq_factor:
        return period
    if wavelength > spec.original_length / spec.low_freq_factor:
        return period * spec.factor
    turns = spec.original_length / wavelength
    smooth = (turns - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor)
    return 1 / ((1 - smooth) / (period * spec.factor) + smooth / period)


def _magnitude(spec: RopeSpec) -> float:
    """Factor on rotated queries and keys."""
    if spec.kind not in ("yarn", "longrope"):
        return 1.0
    if spec.attention_factor is not None:
        return spec.attention_factor
    if spec.factor <= 1:
        return 1.0
    if spec.kind == "longrope":
        return math.sqrt(1 + math.log(spec.factor) / math.log(spec.original_length))
    if spec.mscale and spec.mscale_all_dim:
        return _yarn_mscale(spec.factor, spec.mscale) / _yarn_mscale(spec.factor, spec.mscale_all_dim)
    return _yarn_mscale(spec.factor, 1.0)


def _yarn_mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0
