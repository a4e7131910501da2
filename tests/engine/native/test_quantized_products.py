"""Products with packed weights against MLX's own, over every layout."""

import itertools
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

LAYOUTS = [*itertools.product((2, 3, 4, 5, 6, 8), (32, 64, 128), ("affine",)), (4, 32, "mxfp4")]
# One row, a pair, every remainder of a block, several blocks.
ROW_COUNTS = (1, 2, 3, 5, 7, 9, 11, 12, 13, 27)
# Of the norms of both vectors: 15 bits of each activation are kept.
TOLERANCE = 2e-5


@dataclass(frozen=True)
class Packed:
    """A weight in MLX's layout and in panels."""

    kernels: Any
    arrays: tuple[mx.array, mx.array, mx.array | None]
    panels: mx.array
    rows: int
    layout: tuple[Any, ...]
    how: dict[str, Any]

    @classmethod
    def random(cls, kernels, shape, bits, group_size, mode, dtype=mx.float16, seed=0):
        weight = mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32)).astype(dtype)
        how = {"group_size": group_size, "bits": bits, "mode": mode}
        quantised = mx.quantize(weight, **how)
        packed, scales, biases = quantised if mode == "affine" else (*quantised, None)
        panels = kernels.panels_of_quantized(packed, scales, biases, group_size, bits, mode)
        layout = (shape[-1], group_size, bits, mode, scales.dtype)
        return cls(kernels, (packed, scales, biases), panels, shape[-2], layout, how)

    @property
    def dense(self) -> mx.array:
        packed, scales, biases = self.arrays
        if biases is not None:
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        return mx.dequantize(packed, scales, biases, **self.how).astype(mx.float32)

    def product(self, x: mx.array, **extras: Any) -> mx.array:
        return self.kernels.multiply_quantized(x, [self.panels], [self.rows], [None], *self.layout, **extras)[0]


def random(*shape, seed=1):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def distance(found, expected, x, dense):
    """The largest difference, in units of the vectors' norms."""
    scale = mx.linalg.norm(x, axis=-1, keepdims=True) * mx.linalg.norm(dense, axis=-1)
    return mx.max(mx.abs(found - expected) / scale).item()


@pytest.mark.parametrize(("bits", "group_size", "mode"), LAYOUTS)
def test_products_equal_those_of_mlx(kernels, bits, group_size, mode):
    weight = Packed.random(kernels, (37, 384), bits, group_size, mode)
    for num_rows in ROW_COUNTS:
        x = random(num_rows, 384)
        packed, scales, biases = weight.arrays
        if biases is not None:
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        expected = mx.quantized_matmul(x, packed, scales, biases, **weight.how)
        assert distance(weight.product(x), expected, x, weight.dense) < TOLERANCE


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (15, 64), (16, 96), (129, 160)])
def test_scales_may_have_any_float_type_and_rows_any_number(kernels, dtype, bits, rows, columns):
    weight = Packed.random(kernels, (rows, columns), bits, 32, "affine", dtype)
    x = random(6, columns)
    assert distance(weight.product(x), x @ weight.dense.T, x, weight.dense) < TOLERANCE


def test_many_rows_on_several_threads_equal_a_dense_product(kernels):
    weight = Packed.random(kernels, (200, 1024), 4, 64, "affine")
    x = random(531, 1024)
    assert distance(weight.product(x), x @ weight.dense.T, x, weight.dense) < TOLERANCE


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_does_not_depend_on_the_rows_beside_it(kernels, bits):
    weight = Packed.random(kernels, (50, 256), bits, 32, "affine")
    x = random(31, 256)
    alone = mx.concatenate([weight.product(x[row : row + 1]) for row in range(31)])
    for num_rows in ROW_COUNTS:
        assert mx.array_equal(weight.product(x[:num_rows]), alone[:num_rows])
    assert mx.array_equal(weight.product(x), alone)


def test_rows_may_lie_apart_in_memory(kernels):
    weight = Packed.random(kernels, (24, 64), 4, 32, "affine")
    x = random(3, 64, 5)
    strided = x.transpose(0, 2, 1)[:, ::2]
    assert mx.array_equal(weight.product(strided), weight.product(mx.contiguous(strided)))


def test_no_rows_give_no_results(kernels):
    weight = Packed.random(kernels, (24, 64), 4, 32, "affine")
    assert weight.product(mx.zeros((0, 64))).shape == (0, 24)


def test_large_small_and_zero_activations_keep_their_size(kernels):
    weight = Packed.random(kernels, (24, 128), 4, 32, "affine")
    for factor in (1e20, 1e-20, 0.0):
        x = random(2, 128) * factor
        np.testing.assert_allclose(weight.product(x), x @ weight.dense.T, rtol=2e-3, atol=2e-5 * factor)


def test_a_number_that_is_none_shows_in_its_own_row_only(kernels):
    weight = Packed.random(kernels, (24, 128), 4, 32, "affine")
    x = random(3, 128)
    x[1, 7] = mx.nan
    found = weight.product(x)
    assert mx.all(mx.isnan(found[1])).item()
    assert not mx.any(mx.isnan(found[::2])).item()


def test_several_weights_are_multiplied_in_one_call(kernels):
    weights = [Packed.random(kernels, (rows, 96), 4, 32, "affine", seed=rows) for rows in (48, 17, 16)]
    bias = random(17)
    x = random(5, 96)
    panels, rows = [each.panels for each in weights], [each.rows for each in weights]
    found = kernels.multiply_quantized(x, panels, rows, [None, bias, None], *weights[0].layout)
    assert mx.array_equal(found[0], weights[0].product(x))
    assert mx.array_equal(found[1], weights[1].product(x) + bias)
    assert mx.array_equal(found[2], weights[2].product(x))


def test_a_norm_and_a_residual_join_the_product(kernels):
    weight = Packed.random(kernels, (40, 96), 8, 32, "affine")
    x, factors, residual = random(5, 96), random(96, seed=2), random(5, 40, seed=3)
    found = weight.product(x, norm=factors, eps=1e-5, residual=residual)
    expected = residual + weight.product(mx.fast.rms_norm(x, factors, 1e-5))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("rows", [32, 37])
def test_two_products_are_joined_by_an_activation(kernels, rows):
    gate, up = (Packed.random(kernels, (rows, 96), 4, 32, "affine", seed=seed) for seed in (0, 1))
    for num_rows in (1, 5, 40):
        x = random(num_rows, 96)
        panels = [gate.panels, up.panels]
        (found,) = kernels.multiply_quantized(x, panels, [rows, rows], [None, None], *gate.layout, activation="silu")
        first = gate.product(x)
        np.testing.assert_allclose(found, first * mx.sigmoid(first) * up.product(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("bits", "group_size", "mode"), LAYOUTS)
def test_rows_are_taken_exactly(kernels, bits, group_size, mode):
    weight = Packed.random(kernels, (37, 256), bits, group_size, mode)
    ids = mx.array([[36, 0], [17, 17]])
    found = kernels.take_quantized(weight.panels, ids, 37, *weight.layout)
    np.testing.assert_allclose(found, weight.dense[ids], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("bits", "group_size", "mode"), [(4, 32, "affine"), (8, 64, "affine"), (4, 32, "mxfp4")])
@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("shared", [True, False])
def test_chosen_weights_equal_those_of_mlx(kernels, bits, group_size, mode, tokens, shared):
    weight = Packed.random(kernels, (6, 37, 128), bits, group_size, mode)
    x = random(tokens, 1 if shared else 3, 1, 128)
    chosen = mx.array(np.random.default_rng(4).integers(0, 6, (tokens, 3)))
    found = kernels.multiply_quantized_chosen(x, weight.panels, chosen, 37, *weight.layout)
    expected = mx.gather_mm(x, weight.dense.swapaxes(-1, -2), rhs_indices=chosen)
    assert found.shape == (tokens, 3, 1, 37)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_what_does_not_belong_together_is_refused(kernels):
    weight = Packed.random(kernels, (24, 64), 4, 32, "affine")
    with pytest.raises(ValueError, match="number of columns"):
        weight.product(random(2, 96))
    with pytest.raises(ValueError, match="panels do not belong"):
        kernels.multiply_quantized(random(2, 64), [weight.panels], [40], [None], *weight.layout)
    with pytest.raises(ValueError, match="no kernels for this quantisation"):
        kernels.multiply_quantized(random(2, 64), [weight.panels], [24], [None], 64, 32, 7, "affine", mx.float16)
    with pytest.raises(ValueError, match="fitting shapes"):
        weight.product(random(2, 64), residual=random(2, 25))
