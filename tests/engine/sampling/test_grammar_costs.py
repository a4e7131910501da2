"""What a grammar may cost: those that hold up others end, and others go on. The times are counted, not measured."""

import numpy as np
import pytest

from engine.sampling.grammar import BURST_SECONDS, STEP_SECONDS, TOKEN_SECONDS, GrammarRow, find_masks


class Clock:
    """The processor time of this test."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Matcher:
    """A grammar of two tokens, of which each mask takes its time."""

    def __init__(self, clock, mask_seconds):
        self.clock, self.mask_seconds = clock, mask_seconds

    def consume_tokens(self, tokens):
        return True

    def compute_ff_tokens(self):
        return []

    def compute_bitmask(self):
        self.clock.now += self.mask_seconds
        return bytes([3])

    def is_stopped(self):
        return False

    def is_error(self):
        return False


@pytest.fixture
def make():
    clock = Clock()
    return lambda seconds: GrammarRow(Matcher(clock, seconds), 0, 2, clock=clock)


def step(rows):
    find_masks(rows)
    for row in rows:
        assert row.allowed().all()
        row.take([1])


def test_a_grammar_may_take_its_share_of_every_token_for_ever(make):
    row = make(0.9 * TOKEN_SECONDS)
    for _ in range(1000):
        step([row])
    assert row.error is None


def test_a_grammar_that_takes_too_long_at_once_ends(make):
    row = make(1.1 * BURST_SECONDS)
    step([row])
    assert "takes too long" in row.error


def test_a_grammar_that_takes_too_long_each_time_ends(make):
    row = make(3 * TOKEN_SECONDS)
    for _ in range(20):
        step([row])
    assert "takes too long" in row.error


def test_of_many_expensive_grammars_those_behind_the_time_of_a_step_end(make):
    rows = [make(2 * TOKEN_SECONDS) for _ in range(16)] + [make(TOKEN_SECONDS / 10) for _ in range(16)]
    step(rows)  # nothing is known of them before
    step(rows)
    num_left = sum(row.error is None for row in rows[:16])
    assert num_left * 2 * TOKEN_SECONDS <= STEP_SECONDS + 2 * TOKEN_SECONDS
    assert num_left
    assert all(row.error is None for row in rows[16:])


def test_a_mask_is_found_once_for_each_token(make):
    row = make(TOKEN_SECONDS / 2)
    first = row.allowed()
    assert row.allowed() is first
    assert first.dtype == np.bool_
