"""Normalisation over the last axis."""

import mlx.core as mx

from engine.device import Device
from engine.layers.module import Module


class RMSNorm(Module):
    """Root-mean-square norm (Zhang and Sennrich 2019, arXiv:1910.07467).

    weight: (size,); x: (..., size). Computed in float32 or better, returned in the dtype of x.
    """

    def __init__(self, size: int, eps: float) -> None:
        self.weight = mx.ones((size,))
        self._eps = eps

    @property
    def eps(self) -> float:
        """Added to the mean of the squares."""
        return self._eps

    @property
    def factors(self) -> mx.array:
        """Factors of the normalised vector: (size,)."""
        return self.weight

    def __call__(self, x: mx.array) -> mx.array:
        if self._native is None or x.dtype != mx.float32:
            return mx.fast.rms_norm(x, self.factors, self._eps)
        return self._native.rms_norm(x, self.factors, self._eps)


class UnitOffsetRMSNorm(RMSNorm):
    """RMSNorm whose factor is 1 + weight (Gemma)."""

    def prepare(self, device: Device) -> None:
        """Bring loaded arrays into the form this device computes with."""
        super().prepare(device)
        self._factors = 1.0 + self.weight

    @property
    def factors(self) -> mx.array:
        """Factors of the normalised vector: (size,)."""
        return self._factors


class UnscaledRMSNorm(RMSNorm):
    """RMSNorm without a weight."""

    def __init__(self, size: int, eps: float) -> None:
        self._ones = mx.ones((size,))
        self._eps = eps

    def prepare(self, device: Device) -> None:
        """Learn the device's kernels and its precision."""
        super().prepare(device)
        self._ones = device.in_precision(self._ones)

    @property
    def factors(self) -> mx.array:
        """Factors of the normalised vector, all of them 1: (size,)."""
        return self._ones


class LayerNorm(Module):
    """Layer norm (Ba et al. 2016, arXiv:1607.06450).

    weight and, where there is a bias, bias: (size,); x: (..., size)
    """

    def __init__(self, size: int, eps: float, *, bias: bool = True) -> None:
        self.weight = mx.ones((size,))
        if bias:
            self.bias = mx.zeros((size,))
        self._biased = bias
        self._eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        bias = self.bias if self._biased else None
        if self._native is None or x.dtype != mx.float32:
            return mx.fast.layer_norm(x, self.weight, bias, self._eps)
        return self._native.layer_norm(x, self.weight, bias, self._eps)


class PlainRMSNorm(Module):
    """Root-mean-square norm without weight. x: (..., size)."""

    def __init__(self, eps: float) -> None:
        self._eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, None, self._eps)


class PlainLayerNorm(Module):
    """Layer norm without weight or bias. x: (..., size)."""

    def __init__(self, eps: float) -> None:
        self._eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, None, None, self._eps)


class HeadwiseLayerNorm(Module):
    """Layer norm over each head, with a weight of its own for every head and no bias (Command R+).

    weight: (num_heads, head_dim); x: (..., num_heads, head_dim)
    """

    def __init__(self, num_heads: int, head_dim: int, eps: float) -> None:
        self.weight = mx.ones((num_heads, head_dim))
        self._eps = eps

    @property
    def factors(self) -> mx.array:
        """Factors of every head: (num_heads, head_dim)."""
        return self.weight

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, None, None, self._eps) * self.factors
