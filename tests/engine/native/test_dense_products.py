"""Products with dense weights against float64."""

import mlx.core as mx
import numpy as np
import pytest

DTYPES = [mx.float32, mx.float16, mx.bfloat16]


def random(*shape, seed=1):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def product(kernels, x, weight, **extras):
    rows, columns = weight.shape
    panels = kernels.panels_of_dense(weight)
    return kernels.multiply_dense(x, [panels], [rows], [None], columns, weight.dtype, **extras)[0]


def exact(x, weight):
    return np.array(x, np.float64) @ np.array(weight.astype(mx.float32), np.float64).T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (16, 16), (37, 100), (130, 33)])
def test_products_equal_exact_ones(kernels, dtype, rows, columns):
    weight = random(rows, columns).astype(dtype)
    for num_rows in (1, 2, 3, 6, 12, 13, 29):
        x = random(num_rows, columns, seed=2)
        np.testing.assert_allclose(product(kernels, x, weight), exact(x, weight), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_rows_beside_it(kernels, dtype):
    weight, x = random(50, 70).astype(dtype), random(31, 70, seed=2)
    alone = mx.concatenate([product(kernels, x[row : row + 1], weight) for row in range(31)])
    for num_rows in (1, 2, 3, 5, 8, 12, 13, 31):
        assert mx.array_equal(product(kernels, x[:num_rows], weight), alone[:num_rows])


def test_many_rows_on_several_threads_equal_exact_products(kernels):
    weight, x = random(200, 500), random(300, 500, seed=2)
    np.testing.assert_allclose(product(kernels, x, weight), exact(x, weight), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_taken_exactly(kernels, dtype):
    weight = random(37, 50).astype(dtype)
    ids = mx.array([3, 36, 0, 3])
    found = kernels.take_dense(kernels.panels_of_dense(weight), ids, 37, 50, dtype)
    assert mx.array_equal(found, weight[ids].astype(mx.float32))


def test_weights_may_lie_apart_in_memory(kernels):
    weight, x = random(40, 30).T, random(3, 40, seed=2)
    np.testing.assert_allclose(product(kernels, x, weight), exact(x, weight), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_chosen_weights_equal_those_of_mlx(kernels, tokens):
    stack, x = random(6, 37, 50), random(tokens, 1, 1, 50, seed=2)
    chosen = mx.array(np.random.default_rng(4).integers(0, 6, (tokens, 2)))
    found = kernels.multiply_dense_chosen(x, kernels.panels_of_dense(stack), chosen, 37, 50, mx.float32)
    expected = mx.gather_mm(x, stack.swapaxes(-1, -2), rhs_indices=chosen)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
