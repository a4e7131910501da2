"""What a sampler reads from logits, against float64."""

import mlx.core as mx
import numpy as np
import pytest

from engine.sampling.params import SamplingParams
from engine.sampling.sampler import SamplerRow, sample


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


def cut(x, temperature, top_k, top_p, min_p):
    """Probabilities in float64 after all cuts, not normalised again."""
    x = x.astype(np.float64) / temperature
    p = np.exp(x - x.max())
    p /= p.sum()
    ordered = np.sort(p)[::-1][: top_k or None]
    before = np.cumsum(ordered) - ordered
    kept = max(1, np.count_nonzero(before < top_p * ordered.sum()))
    return np.where(p >= max(ordered[kept - 1] * (1 - 1e-6), min_p * p.max()), p, 0)


def drawn(kernels, x, uniform, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    rows = x.shape[0]
    settings = [mx.full((rows,), each) for each in (temperature, top_k, top_p, min_p)]
    return np.array(kernels.draw(mx.array(x), *settings, mx.array(uniform, mx.float32)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 1},
        {"top_k": 7},
        {"top_p": 0.9},
        {"top_p": 0.0},
        {"top_k": 50, "top_p": 0.6, "temperature": 1.7},
        {"min_p": 0.2},
        {"top_p": 0.95, "min_p": 0.05},
        {"top_k": 100_000, "top_p": 1.0},
    ],
)
def test_tokens_are_drawn_in_the_order_of_the_vocabulary(kernels, settings):
    for vocab_size in (3, 5_000):
        x = logits(1, vocab_size)
        uniform = np.linspace(0, 0.9999, 40).astype(np.float32)
        found = drawn(kernels, np.repeat(x, 40, axis=0), uniform, **settings)
        p = cut(x[0], **{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **settings})
        mass = np.cumsum(p)
        # Rounding may move a draw across the border between two tokens.
        low, high = (np.searchsorted(mass, (uniform + shift) * mass[-1], side="right") for shift in (-1e-5, 1e-5))
        assert np.all((low <= found) & (found <= high))
        assert np.all(p[found] > 0)


def test_temperature_zero_takes_the_best(kernels):
    x = logits(4, 3_000)
    assert drawn(kernels, x, [0.0, 0.5, 0.7, 0.99], temperature=0.0).tolist() == x.argmax(-1).tolist()


def test_tokens_that_tie_with_the_last_one_kept_are_kept(kernels):
    x = np.zeros((4, 8), np.float32)
    assert drawn(kernels, x, [0.0, 0.3, 0.6, 0.99], top_k=2).tolist() == [0, 2, 4, 7]


def test_banned_tokens_are_never_drawn(kernels):
    x = np.full((3, 100), -np.inf, np.float32)
    x[:, 42] = -5
    assert drawn(kernels, x, [0.0, 0.5, 0.999]).tolist() == [42] * 3


def test_a_batch_is_sampled_as_without_kernels(kernels):
    settings = [
        {"temperature": 0},
        {"seed": 1, "logprobs": 5},
        {"seed": 2, "temperature": 1.3, "top_p": 0.8, "logprobs": 0},
        {"seed": 3, "top_k": 20, "min_p": 0.1},
        {"seed": 4, "logit_bias": ((7, 9.0),), "repetition_penalty": 1.3},
    ]
    ours, theirs = (
        [SamplerRow(SamplingParams(max_tokens=99, **each), (1, 2), frozenset({3}), 900) for each in settings]
        for _ in range(2)
    )
    for seed in range(30):
        x = mx.array(logits(5, 900, seed))
        found, expected = sample(x, ours, kernels), sample(x, theirs)
        assert found.tokens.tolist() == expected.tokens.tolist()
        assert found.logprob_rows == expected.logprob_rows
        assert found.top_ids.tolist() == expected.top_ids.tolist()
        np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.top_logprobs, expected.top_logprobs, rtol=1e-5, atol=1e-5)
