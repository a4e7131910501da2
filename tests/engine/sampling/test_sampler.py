"""The sampler against plain definitions of each parameter, on the device and in batches."""

import mlx.core as mx
import numpy as np
import pytest

from engine.sampling.params import SamplingParams
from engine.sampling.sampler import SamplerRow, sample

VOCAB = 50


def row(prompt=(1,), ends=frozenset(), **params) -> SamplerRow:
    return SamplerRow(SamplingParams(max_tokens=1000, **params), prompt, ends, VOCAB)


def logits(seed: int = 0, rows: int = 1) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(0, 2, (rows, VOCAB)).astype(np.float32))


def draws(values: mx.array, count: int, **params) -> np.ndarray:
    one = row(seed=7, **params)
    return np.array([sample(values, [one]).tokens.item() for _ in range(count)])


def probabilities(values: mx.array, temperature: float = 1.0) -> np.ndarray:
    scaled = np.array(values[0], np.float64) / temperature
    exp = np.exp(scaled - scaled.max())
    return exp / exp.sum()


def test_temperature_zero_takes_the_most_likely_token():
    values = logits()
    assert sample(values, [row(temperature=0)]).tokens.item() == int(np.argmax(np.array(values)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_frequencies_follow_the_softmax_at_the_temperature(temperature):
    values = logits(3)
    seen = np.bincount(draws(values, 4000, temperature=temperature), minlength=VOCAB) / 4000
    assert np.abs(seen - probabilities(values, temperature)).max() < 0.03


def test_top_k_draws_only_from_the_k_most_likely():
    values = logits(4)
    allowed = set(np.argsort(-np.array(values[0]))[:5].tolist())
    assert set(draws(values, 400, top_k=5, temperature=3.0).tolist()) == allowed


@pytest.mark.parametrize("top_k", [0, 20])
def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(top_k):
    values = logits(5)
    mass = probabilities(values)
    order = np.argsort(-mass)
    kept_by_k = mass[order][: top_k or VOCAB]
    needed = int(np.searchsorted(np.cumsum(kept_by_k) / kept_by_k.sum(), 0.8)) + 1
    assert set(draws(values, 800, top_p=0.8, top_k=top_k).tolist()) == set(order[:needed].tolist())


def test_top_p_zero_is_greedy():
    values = logits(6)
    assert set(draws(values, 20, top_p=0.0).tolist()) == {int(np.argmax(np.array(values)))}


def test_min_p_cuts_relative_to_the_best():
    values = logits(8)
    mass = probabilities(values)
    allowed = set(np.flatnonzero(mass >= 0.3 * mass.max()).tolist())
    assert set(draws(values, 500, min_p=0.3).tolist()) == allowed


def test_same_seed_gives_the_same_tokens_alone_and_in_a_batch():
    values = logits(9, rows=3)
    alone, batched = row(seed=42, top_p=0.9), row(seed=42, top_p=0.9)
    others = [row(seed=1, top_k=3), row(temperature=0, repetition_penalty=1.3)]
    for _ in range(30):
        one = sample(values[:1], [alone]).tokens.item()
        assert sample(values, [batched, *others]).tokens[0].item() == one


def test_different_seeds_differ():
    values = logits(10)
    first, second = row(seed=1), row(seed=2)
    pairs = [(sample(values, [first]).tokens.item(), sample(values, [second]).tokens.item()) for _ in range(40)]
    assert any(a != b for a, b in pairs)


def test_repetition_penalty_acts_once_on_prompt_and_output_tokens():
    values = mx.zeros((1, VOCAB))
    values[0, 3], values[0, 4], values[0, 5] = 4.0, 3.0, -1.0
    one = row(prompt=(3, 3, 5), temperature=0, repetition_penalty=2.0)
    assert sample(values, [one]).tokens.item() == 4, "4/2 falls below 3; a second division would not matter here"
    assert sample(values, [one]).tokens.item() == 3, "4 is in the output now: 3/2 < 4/2"


def test_presence_and_frequency_count_generated_tokens_only():
    values = mx.zeros((1, VOCAB))
    values[0, 3], values[0, 4] = 1.0, 0.7
    presence = row(prompt=(3,), temperature=0, presence_penalty=0.5)
    assert [sample(values, [presence]).tokens.item() for _ in range(3)] == [3, 4, 3]
    frequency = row(prompt=(3,), temperature=0, frequency_penalty=0.2)
    assert [sample(values, [frequency]).tokens.item() for _ in range(4)] == [3, 3, 4, 3]


def test_logit_bias_moves_and_bans_tokens():
    values = logits(11)
    assert sample(values, [row(temperature=0, logit_bias=((17, 100.0),))]).tokens.item() == 17
    best = int(np.argmax(np.array(values)))
    assert best not in draws(values, 100, logit_bias=((best, -100.0),))


def test_end_tokens_are_banned_until_min_tokens():
    values = mx.zeros((1, VOCAB))
    values[0, 2] = 50.0
    one = row(ends=frozenset({2}), temperature=0, min_tokens=3)
    assert [sample(values, [one]).tokens.item() == 2 for _ in range(5)] == [False, False, False, True, True]


def test_logprobs_are_of_the_raw_distribution_and_only_for_rows_that_asked():
    values = logits(12, rows=2)
    rows = [row(temperature=0), row(temperature=0, logprobs=3, logit_bias=((9, 100.0),), repetition_penalty=1.5)]
    sampled = sample(values, rows)
    assert sampled.logprob_rows == (1,)
    expected = np.log(probabilities(values[1:]))
    assert sampled.tokens[1].item() == 9
    assert sampled.logprobs.item() == pytest.approx(expected[9], abs=1e-5)
    best = np.argsort(-expected)[:3]
    assert sampled.top_ids[0].tolist() == best.tolist()
    assert sampled.top_logprobs[0].tolist() == pytest.approx(expected[best].tolist(), abs=1e-5)


def test_a_greedy_token_reports_the_same_float_as_its_best_alternative():
    sampled = sample(logits(13), [row(temperature=0, logprobs=2)])
    assert sampled.logprobs.item() == sampled.top_logprobs[0, 0].item()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_allowed_tokens_are_sampled_and_neighbours_are_free(temperature):
    values = mx.concatenate([logits(5), logits(5)])
    rows = [row(seed=3, temperature=temperature, allowed_token_ids=(4, 8)), row(seed=3, temperature=temperature)]
    pairs = [sample(values, rows).tokens.tolist() for _ in range(40)]
    assert {first for first, _ in pairs} <= {4, 8}
    best = int(np.argmax(np.array(values[1])))
    assert best not in (4, 8)
    assert any(second not in (4, 8) for _, second in pairs)


def test_bad_sequences_are_never_completed_in_the_output():
    values = mx.array(np.arange(VOCAB, dtype=np.float32)[None])  # 49, then 48 and so on are the most likely
    free = row(temperature=0, prompt=(1, 49))
    assert [sample(values, [free]).tokens.item() for _ in range(3)] == [49, 49, 49]
    bound = row(temperature=0, prompt=(1, 49), bad_sequences=((49, 49), (49, 48, 49), (47,)))
    assert [sample(values, [bound]).tokens.item() for _ in range(5)] == [49, 48, 48, 49, 48]
