"""Rotary positions against MLX's own."""

import mlx.core as mx
import numpy as np
import pytest


def random(*shape, seed=1):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def periods(dims, base=10_000.0):
    return mx.array([base ** (2 * i / dims) for i in range(dims // 2)])


def rotated(x, dims, offset, *, interleaved, freqs):
    return mx.fast.rope(x, dims, traditional=interleaved, base=None, scale=1.0, offset=offset, freqs=freqs)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "dims"), [(64, 64), (80, 32), (6, 2), (128, 128), (5, 4)])
def test_queries_and_keys_are_rotated_like_mlx_does(kernels, interleaved, head_dim, dims):
    queries, keys = random(3, 9, 4, head_dim), random(3, 2, 4, head_dim, seed=2)
    for offset in (0, 17, mx.array([0, 5000, 131_072])):
        found = kernels.rotate([queries, keys], offset, periods(dims), interleaved)
        for each, x in zip(found, (queries, keys), strict=True):
            expected = rotated(x, dims, offset, interleaved=interleaved, freqs=periods(dims))
            np.testing.assert_allclose(each, expected, rtol=1e-5, atol=2e-6)


def test_heads_may_lie_apart_in_memory(kernels):
    by_position = random(2, 5, 3 * 16).reshape(2, 5, 3, 16).transpose(0, 2, 1, 3)
    by_dimension = random(2, 3, 16, 5).transpose(0, 1, 3, 2)
    for x in (by_position, by_dimension):
        expected = rotated(x, 16, 3, interleaved=False, freqs=periods(16))
        np.testing.assert_allclose(kernels.rotate([x], 3, periods(16))[0], expected, rtol=1e-5, atol=2e-6)


def test_the_magnitude_scales_rotated_dimensions_only(kernels):
    x = random(1, 2, 3, 12)
    plain, scaled = kernels.rotate([x], 7, periods(8))[0], kernels.rotate([x], 7, periods(8), False, 1.25)[0]
    np.testing.assert_allclose(scaled[..., :8], 1.25 * plain[..., :8], rtol=1e-6, atol=1e-6)
    assert mx.array_equal(scaled[..., 8:], x[..., 8:])


def test_a_token_does_not_depend_on_the_tokens_beside_it(kernels):
    x = random(1, 3, 600, 64)
    whole = kernels.rotate([x], 100, periods(64))[0]
    alone = [kernels.rotate([x[:, :, i : i + 1]], 100 + i, periods(64))[0] for i in range(0, 600, 7)]
    assert mx.array_equal(mx.concatenate(alone, axis=2), whole[:, :, ::7])


def test_too_many_periods_are_refused(kernels):
    with pytest.raises(ValueError, match="head_dim"):
        kernels.rotate([random(1, 1, 1, 6)], 0, periods(8))
