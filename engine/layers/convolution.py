"""A short causal convolution along the tokens, whose last inputs are kept per sequence."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.device import Device
from engine.layers.activations import ACTIVATIONS
from engine.layers.linear import Linear
from engine.layers.module import Module

_KERNEL_ACTIVATIONS = (None, "silu", "swish")


class CausalConvolution(Module):
    """Each channel by itself: y[t] = sum over k of weight[:, k] * x[t - width + 1 + k], plus a bias.

    A token's result is the same whatever it is computed together with.

    weight: (channels, 1, width) as PyTorch stores it, or (channels, width, 1) as MLX does
    activation: a name in ACTIVATIONS, or None
    """

    bias: mx.array

    def __init__(
        self, channels: int, width: int, *, bias: bool, channels_last: bool = False, activation: str | None = None
    ) -> None:
        self.weight = mx.zeros((channels, width, 1) if channels_last else (channels, 1, width))
        self._width = width
        if bias:
            self.bias = mx.zeros((channels,))
        self._biased = bias
        self._activation = activation

    def prepare(self, device: Device) -> None:
        """Bring the loaded arrays into the form that this device computes with."""
        super().prepare(device)
        self._kernel = mx.contiguous(self.weight.reshape(-1, self._width).T)  # (width, channels)

    def __call__(self, x: mx.array, tail: mx.array | None) -> tuple[mx.array, mx.array]:
        """Convolve new tokens behind the last inputs of the tokens before them.

        x: (rows, length, channels); tail: (rows, width - 1, channels), or None before the first token
        Returns the shape of x, with the activation applied, and the new tail.
        """
        if self._native is not None and x.dtype == mx.float32 and self._activation in _KERNEL_ACTIVATIONS:
            bias = self.bias if self._biased else None
            y, tail = self._native.convolve(x, self._kernel, bias, tail, self._activation is not None)
            return y, tail
        y, tail = self._convolved(x, tail)
        return (y if self._activation is None else ACTIVATIONS[self._activation](y)), tail

    def _convolved(self, x: mx.array, tail: mx.array | None) -> tuple[mx.array, mx.array]:
        num_rows, length, channels = x.shape
        width = self._width
        if tail is None:
            tail = mx.zeros((num_rows, width - 1, channels), x.dtype)
        inputs = mx.concatenate([tail, x], axis=1)
        y = inputs[:, :length] * self._kernel[0]
        for k in range(1, width):
            y = y + inputs[:, k : k + length] * self._kernel[k]
        return y + self.bias if self._biased else y, inputs[:, length:]


class ShortConvolution(Module):
    """A gated short convolution in the place of attention: out(gate * conv(other gate * x)).

    layer: its number among the layers that keep a state
    """

    def __init__(self, layer: int, hidden_size: int, width: int, *, bias: bool, channels_last: bool) -> None:
        self.in_proj = Linear(hidden_size, 3 * hidden_size, bias=bias)
        self.conv = CausalConvolution(hidden_size, width, bias=bias, channels_last=channels_last)
        self.o_proj = Linear(hidden_size, hidden_size, bias=bias)
        self._layer = layer

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        """x: (rows, length, hidden_size); returns the same shape."""
        before, after, value = mx.split(self.in_proj(x), 3, axis=-1)
        state = batch.state(self._layer)
        convolved, tail = self.conv(before * value, None if state is None else state[0])
        batch.keep_state(self._layer, [tail])
        return self.o_proj(after * convolved)
