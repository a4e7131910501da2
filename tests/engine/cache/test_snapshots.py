"""Prefixes of models whose layers keep a state: they end where a snapshot was stored, and nowhere else."""

import random

from engine.cache.prefix import PrefixStore
from tests.engine.cache.test_prefixes import Words, remember


def keep_state(store: PrefixStore, tokens: list[int]) -> None:
    store.add_state(tokens, Words(tuple(tokens)))


def test_a_prefix_ends_at_the_deepest_snapshot_inside_it():
    store = PrefixStore(1000, 4, needs_state=True)
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    remember(store, tokens)
    assert store.find(tokens, 9).num_tokens == 0
    keep_state(store, tokens[:3])
    keep_state(store, tokens[:8])
    match = store.find(tokens, 9)
    assert (match.num_tokens, match.state, match.reach) == (8, Words(tuple(tokens[:8])), 9)
    assert store.find(tokens, 7).num_tokens == 3
    assert store.find([1, 2, 3, 4, 5, 0], 6).num_tokens == 3
    assert store.cached_tokens([1, 2, 3, 4, 5, 0], 6) == 3


def test_a_snapshot_without_the_keys_and_values_before_it_is_of_no_use():
    store = PrefixStore(1000, 4, needs_state=True)
    keep_state(store, [1, 2])
    assert store.find([1, 2, 3], 3).num_tokens == 0


def test_a_snapshot_inside_a_block_outlives_the_beginning_of_that_block():
    store = PrefixStore(1000, 4, needs_state=True)
    remember(store, [1, 2])
    keep_state(store, [1, 2])
    remember(store, [1, 2, 3, 4, 5])
    assert store.find([1, 2, 9], 3).num_tokens == 2


def test_a_snapshot_is_stored_once():
    store = PrefixStore(1000, 4, needs_state=True)
    remember(store, [1, 2, 3])
    assert store.lacks_state([1, 2, 3])
    keep_state(store, [1, 2, 3])
    assert not store.lacks_state([1, 2, 3])
    assert store.add_state([1, 2, 3], Words((1, 2, 3))) is None


def test_states_are_those_of_the_tokens_and_the_budget_holds():
    rng = random.Random(11)
    store = PrefixStore(90, 4, needs_state=True)
    found = 0
    for _ in range(3000):
        tokens = [rng.randrange(2) for _ in range(rng.randrange(1, 14))]
        match = store.find(tokens, len(tokens))
        found += match.num_tokens > 0
        assert match.state == (Words(tuple(tokens[: match.num_tokens])) if match.num_tokens else None)
        assert match.num_tokens == sum(match.counts)
        remember(store, tokens)
        keep_state(store, tokens[: rng.randrange(1, len(tokens) + 1)])
        assert store.num_bytes <= 90
        assert store.num_bytes == sum(block.content.num_bytes for block in store._recent)  # the books must agree
    assert found > 300
