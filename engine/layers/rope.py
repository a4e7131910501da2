"""Rotary positions with every published scaling, from plain numbers."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import mlx.core as mx

from engine.attention.qkv import Rotation, join_heads, split_heads
from engine.cache.rotations import RotationRule
from engine.errors import CheckpointUnsupported
from engine.layers.module import Module
from engine.rope_spec import RopeSpec

_MOST_ROTATIONS = 64  # of different lengths that are kept


class Rope:
    """Rotate pairs of a head's dimensions by an angle that grows with the position.

    The angle of pair i at position p is p / periods[i]. "dynamic" and "longrope" choose their periods by the length of
    what has been read, as `rule` says.

    recomputes: see RotationRule
    """

    def __init__(self, spec: RopeSpec, *, interleaved: bool = False, recomputes: bool = False) -> None:
        self._spec = spec
        self._interleaved = interleaved
        self._magnitude = _magnitude(spec)
        self.rule = _rule(spec, recomputes=recomputes)
        self._rotations: dict[int, Rotation] = {}

    def __call__(self, x: mx.array, offsets: int | mx.array, planned_lengths: Sequence[int]) -> mx.array:
        """Rotate queries or keys.

        x: (rows, heads, length, head_dim)
        offsets: position of the first token, one for all rows or (rows,)
        planned_lengths: tokens that each row's rotation is chosen by
        """
        rotation = self.rotation(planned_lengths)
        if rotation is not None:
            return rotation.at(offsets).apply(x)
        starts = [offsets] * len(planned_lengths) if isinstance(offsets, int) else list(offsets)
        rotated = [
            self._rotation_for(length).at(starts[i]).apply(x[i : i + 1]) for i, length in enumerate(planned_lengths)
        ]
        return mx.concatenate(rotated, axis=0)

    def side_by_side(self, x: mx.array, head_dim: int, offsets: int | mx.array, lengths: Sequence[int]) -> mx.array:
        """Rotate heads that lie side by side: (rows, length, num_heads * head_dim)."""
        return join_heads(self(split_heads(x, x.shape[-1] // head_dim), offsets, lengths))

    def rotation(self, planned_lengths: Sequence[int]) -> Rotation | None:
        """The rotation as a value, for rows at position 0; None where the rows rotate at different speeds."""
        if self.rule is None:
            return self._rotation_for(0)
        found = {id(each): each for each in map(self._rotation_for, planned_lengths)}
        return next(iter(found.values())) if len(found) == 1 else None

    def _rotation_for(self, length: int) -> Rotation:
        key = 0 if self.rule is None else self.rule.regime(length)
        if key not in self._rotations:
            if len(self._rotations) > _MOST_ROTATIONS:
                self._rotations.clear()
            periods = mx.array(_periods(self._spec, length))
            self._rotations[key] = Rotation(periods, 0, self._interleaved, self._magnitude)
        return self._rotations[key]


class Assembled(Protocol):
    """A model whose parts can be looked through."""

    def modules(self) -> Iterator[tuple[str, Module]]:
        """The model and all its parts with their dotted names."""


def rotation_rule(model: Assembled) -> RotationRule | None:
    """How a model's rotations depend on the length; None where they do not. Raises CheckpointUnsupported."""
    found = {each.rule for _, module in model.modules() for each in vars(module).values() if isinstance(each, Rope)}
    rules = [rule for rule in found if rule is not None]
    if len(rules) > 1:
        raise CheckpointUnsupported("rope_parameters", len(rules), "at most one rotation that depends on the length")
    return rules[0] if rules else None


def _rule(spec: RopeSpec, *, recomputes: bool) -> RotationRule | None:
    if spec.kind == "dynamic":
        return RotationRule(spec.original_length, per_length=True)
    if spec.kind == "longrope" and spec.short_factors != spec.long_factors:
        return RotationRule(spec.original_length, recomputes=recomputes)
    return None


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
