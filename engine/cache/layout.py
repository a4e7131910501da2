"""The layout of keys and values in memory: as computed, or quantised along each head. Knows planes; no rows, no slots.

A plane is one array of a layer, (..., tokens, width). A layer has the same planes for every token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from engine.errors import CheckpointUnsupported

Planes = list[mx.array]


class Layout(Protocol):
    """Turns keys and values into planes and back."""

    @property
    def bits(self) -> int:
        """Bits of an integer that stands for a value; 0 where values are floats."""

    def planes(self, keys: mx.array, values: mx.array | None) -> Planes:
        """keys, values: (..., tokens, head_dim); no values where the keys contain them."""

    def with_values(self, planes: Planes, value_dim: int | None) -> Planes:
        """Planes of keys, and of values as the last `value_dim` dimensions of the keys; all planes where it is None."""

    def keys_and_values(self, planes: Sequence[mx.array]) -> tuple[mx.array, mx.array]:
        """Planes to keys and values, as near as the layout keeps them."""


@dataclass(frozen=True, slots=True)
class Dense:
    """Two planes: keys and values themselves."""

    bits: int = 0

    def planes(self, keys: mx.array, values: mx.array | None) -> Planes:
        """keys, values: (..., tokens, head_dim); no values where the keys contain them."""
        return [keys] if values is None else [keys, values]

    def with_values(self, planes: Planes, value_dim: int | None) -> Planes:
        """The last dimensions of the keys are a view of them."""
        return planes if value_dim is None else [planes[0], planes[0][..., -value_dim:]]

    def keys_and_values(self, planes: Sequence[mx.array]) -> tuple[mx.array, mx.array]:
        """The planes."""
        return planes[0], planes[1]


@dataclass(frozen=True, slots=True)
class Quantised:
    """Six planes: quantised integers, scales and biases of keys, then of values, in groups along each head.

    bits: 8 or 4
    """

    bits: int

    def planes(self, keys: mx.array, values: mx.array | None) -> Planes:
        """keys, values: (..., tokens, head_dim). Raises CheckpointUnsupported for a head that has no whole groups."""
        arrays = [keys] if values is None else [keys, values]
        group_sizes = [_group_size(array.shape[-1]) for array in arrays]
        pairs = zip(arrays, group_sizes, strict=True)
        return [plane for array, size in pairs for plane in mx.quantize(array, group_size=size, bits=self.bits)]

    def with_values(self, planes: Planes, value_dim: int | None) -> Planes:
        """Values are whole groups of the keys. Raises CheckpointUnsupported where they are not."""
        if value_dim is None:
            return planes
        head_dim = planes[0].shape[-1] * 32 // self.bits
        if (head_dim - value_dim) % _group_size(head_dim):
            raise CheckpointUnsupported("qk_rope_head_dim", head_dim - value_dim, "whole groups of quantised keys")
        return planes + [plane[..., plane.shape[-1] * (head_dim - value_dim) // head_dim :] for plane in planes]

    def keys_and_values(self, planes: Sequence[mx.array]) -> tuple[mx.array, mx.array]:
        """Dequantised keys and values."""
        return self._dequantised(planes[:3]), self._dequantised(planes[3:])

    def _dequantised(self, planes: Sequence[mx.array]) -> mx.array:
        quantized, scales, biases = planes
        group_size = quantized.shape[-1] * 32 // self.bits // scales.shape[-1]
        return mx.dequantize(quantized, scales, biases, group_size=group_size, bits=self.bits)


def layout_for(kv_bits: int | None) -> Layout:
    """The layout for `--kv-bits`: None leaves keys and values as they are."""
    return Dense() if kv_bits is None else Quantised(kv_bits)


def _group_size(head_dim: int) -> int:
    for size in (64, 32):
        if head_dim % size == 0:
            return size
    raise CheckpointUnsupported("head_dim", head_dim, "multiples of 32 with quantised keys and values")


@dataclass(frozen=True, slots=True)
class Content:
    """Some tokens' planes. Those of one shape are stacked: a model whose layers are alike has a single array.

    stacks: (planes, heads, tokens, width) each
    order: for every plane, layer by layer, the stack that holds it
    """

    stacks: tuple[mx.array, ...]
    order: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""
        return sum(stack.nbytes for stack in self.stacks)
