"""Activation functions against float64."""

import math

import mlx.core as mx
import numpy as np
import pytest

EXACT = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * np.array([math.erfc(-each / math.sqrt(2)) / 2 for each in x]),
    "gelu_new": lambda x: x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "tanh": np.tanh,
}


@pytest.mark.parametrize("name", EXACT)
def test_values_are_exact_to_float32(kernels, name):
    points = np.concatenate([np.linspace(-9, 9, 4001), np.random.default_rng(1).standard_normal(500) * 1e-3])
    x = points.astype(np.float32)
    found = np.array(kernels.activate(name, mx.array(x)), np.float64)
    # The argument of gelu_new's exponential grows with the cube of x, and its rounding with it.
    tolerance = 3e-6 if name == "gelu_new" else 6e-7
    near = np.abs(x) < 5 if name == "gelu_new" else np.ones_like(x, bool)
    np.testing.assert_allclose(found[near], EXACT[name](x.astype(np.float64))[near], rtol=tolerance, atol=1e-36)
    np.testing.assert_allclose(found, EXACT[name](x.astype(np.float64)), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", EXACT)
def test_the_far_ends_stay_finite(kernels, name):
    low, high = kernels.activate(name, mx.array([-1000.0, 1000.0])).tolist()
    assert low == (-1 if name == "tanh" else 0)
    assert high == {"tanh": 1, "relu2": 1e6}.get(name, 1000)


@pytest.mark.parametrize("shape", [(1,), (3, 7), (1, 1, 1536), (300, 131)])
def test_the_gate_multiplies_whatever_the_shape(kernels, shape):
    gate, up = (mx.array(np.random.default_rng(s).standard_normal(shape).astype(np.float32)) for s in (1, 2))
    expected = gate * mx.sigmoid(gate) * up
    np.testing.assert_allclose(kernels.activate("silu", gate, up), expected, rtol=1e-6, atol=1e-7)
    if len(shape) > 1:
        halves = mx.concatenate([gate, up], axis=-1)
        gate, up = mx.split(halves, 2, axis=-1)
        np.testing.assert_allclose(kernels.activate("silu", gate, up), expected, rtol=1e-6, atol=1e-7)


def test_an_unknown_function_is_refused(kernels):
    with pytest.raises(ValueError, match="no kernel"):
        kernels.activate("mish", mx.zeros((3,)))
