"""Norms against MLX's own."""

import mlx.core as mx
import numpy as np
import pytest

SHAPES = [(1, 1), (3, 5), (1, 1, 576), (8, 1, 577), (2, 3, 4, 33), (700, 130)]


def random(*shape, seed=1):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm_equals_that_of_mlx(kernels, shape):
    x, weight = random(*shape), random(shape[-1], seed=2)
    close(kernels.rms_norm(x, weight, 1e-5), mx.fast.rms_norm(x, weight, 1e-5))
    close(kernels.rms_norm(x, weight, 1e-5, 1.0), mx.fast.rms_norm(x, 1 + weight, 1e-5))


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_equals_that_of_mlx(kernels, shape):
    x, weight, bias = 3 + random(*shape), random(shape[-1], seed=2), random(shape[-1], seed=3)
    close(kernels.layer_norm(x, weight, bias, 1e-5), mx.fast.layer_norm(x, weight, bias, 1e-5))
    close(kernels.layer_norm(x, None, None, 1e-5), mx.fast.layer_norm(x, None, None, 1e-5))


def test_rows_may_lie_apart_in_memory(kernels):
    weight = random(6, seed=2)
    for x in (random(5, 4, 6).transpose(1, 0, 2), random(6, 5).T, random(8, 12)[::2, 3:9], random(1, 6)):
        close(kernels.rms_norm(x, weight, 1e-5), mx.fast.rms_norm(x, weight, 1e-5))
    broadcast = mx.broadcast_to(random(1, 6), (3, 6))
    close(kernels.rms_norm(broadcast, weight, 1e-5), mx.fast.rms_norm(broadcast, weight, 1e-5))


def test_a_row_does_not_depend_on_the_rows_beside_it(kernels):
    x, weight = random(200, 576), random(576, seed=2)
    whole = kernels.rms_norm(x, weight, 1e-5)
    assert mx.array_equal(mx.concatenate([kernels.rms_norm(x[i : i + 1], weight, 1e-5) for i in range(200)]), whole)


def test_other_sizes_and_types_are_refused(kernels):
    with pytest.raises(ValueError, match="one number per column"):
        kernels.rms_norm(random(2, 4), random(5), 1e-5)
    with pytest.raises(ValueError, match="float32"):
        kernels.rms_norm(random(2, 4).astype(mx.float16), random(4), 1e-5)
