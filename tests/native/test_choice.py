"""What a sampler reads from logits, against float64."""

import mlx.core as mx
import numpy as np
import pytest


def logits(rows, vocab_size, seed=1):
    return 5 * np.random.default_rng(seed).standard_normal((rows, vocab_size)).astype(np.float32)


@pytest.mark.parametrize("vocab_size", [1, 5, 100, 8192, 49_153])
def test_best_and_normaliser_are_exact(kernels, vocab_size):
    x = logits(3, vocab_size)
    best, normalisers = kernels.choose(mx.array(x))
    assert best.tolist() == x.argmax(-1).tolist()
    np.testing.assert_allclose(normalisers, np.log(np.exp(x.astype(np.float64)).sum(-1)), rtol=1e-6)


@pytest.mark.parametrize(("vocab_size", "number"), [(1, 1), (50, 50), (20_000, 20), (20_000, 64)])
def test_the_best_few_come_in_order(kernels, vocab_size, number):
    x = np.round(logits(2, vocab_size), 1)  # with many equal ones
    _, _, ids, values = kernels.choose(mx.array(x), number)
    expected = np.argsort(-x, axis=-1, kind="stable")[:, :number]
    assert ids.tolist() == expected.tolist()
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, -1))


def test_the_first_of_equal_logits_is_best(kernels):
    x = np.zeros((1, 30_000), np.float32)
    x[0, [9_000, 9_001, 25_000]] = 1
    assert kernels.choose(mx.array(x))[0].item() == 9_000


def test_banned_tokens_are_never_best(kernels):
    x = np.full((2, 100), -np.inf, np.float32)
    x[1, 77] = -3
    best, normalisers, ids, _ = kernels.choose(mx.array(x), 2)
    assert best.tolist() == [0, 77]
    assert normalisers.tolist() == [-np.inf, -3]
    assert ids.tolist() == [[0, 1], [77, 0]]


def test_a_row_does_not_depend_on_the_rows_beside_it(kernels):
    x = mx.array(logits(5, 20_000))
    whole = kernels.choose(x, 8)
    for row in range(5):
        for one, every in zip(kernels.choose(x[row : row + 1], 8), whole, strict=True):
            assert mx.array_equal(one[0], every[row])


def test_more_candidates_than_there_is_room_for_are_refused(kernels):
    with pytest.raises(ValueError, match="64"):
        kernels.choose(mx.zeros((1, 100)), 65)
