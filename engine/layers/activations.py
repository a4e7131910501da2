"""Activation functions under the names that configurations use."""

import math
from collections.abc import Callable

import mlx.core as mx

from engine.native.kernels import Kernels

Activation = Callable[[mx.array], mx.array]


def _silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


def _gelu(x: mx.array) -> mx.array:
    return 0.5 * x * (1 + mx.erf(x / math.sqrt(2)))


def _gelu_tanh(x: mx.array) -> mx.array:
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _relu(x: mx.array) -> mx.array:
    return mx.maximum(x, 0)


def _relu_squared(x: mx.array) -> mx.array:
    return mx.square(mx.maximum(x, 0))


def _fused(activation: Activation) -> Activation:
    # On the CPU mx.compile would start a C++ compiler while serving.
    return mx.compile(activation, shapeless=True) if mx.metal.is_available() else activation


ACTIVATIONS: dict[str, Activation] = {
    "silu": _fused(_silu),
    "swish": _fused(_silu),
    "gelu": _fused(_gelu),
    "gelu_new": _fused(_gelu_tanh),
    "gelu_pytorch_tanh": _fused(_gelu_tanh),
    "relu": _relu,
    "relu2": _relu_squared,
    "tanh": mx.tanh,
}


def activate(kernels: Kernels | None, name: str, gate: mx.array, up: mx.array | None = None) -> mx.array:
    """Apply the function of this name to `gate`, times `up` where there is one of the same shape.

    kernels: the device's, or None
    """
    if kernels is None or gate.dtype != mx.float32:
        activated = ACTIVATIONS[name](gate)
        return activated if up is None else activated * up
    return kernels.activate(name, gate, up)
