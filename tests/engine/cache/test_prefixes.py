"""What is found again of earlier sequences: the same answers as without, for the same tokens and no others."""

import random
from dataclasses import dataclass

import pytest

from engine import Engine
from engine.cache.prefix import PrefixStore
from engine.engine import EngineSettings
from engine.requests import GenerationRequest
from engine.sampling.params import SamplingParams


@dataclass(frozen=True)
class Words:
    """Content whose tokens can be told."""

    tokens: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return len(self.tokens)


def remember(store: PrefixStore, tokens: list[int]) -> None:
    for start, end in list(store.missing(tokens, 0, len(tokens))):
        store.add(tokens[:end], Words(tuple(tokens[start:end])))


def recall(store: PrefixStore, tokens: list[int]) -> list[int]:
    match = store.find(tokens, len(tokens))
    return [
        token for content, count in zip(match.contents, match.counts, strict=True) for token in content.tokens[:count]
    ]


def test_a_prefix_is_found_up_to_the_first_differing_token():
    store = PrefixStore(1000, 4)
    remember(store, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    match = store.find([1, 2, 3, 4, 5, 6, 0, 0], 8)
    assert (match.num_tokens, match.stored_token) == (6, 7)
    assert recall(store, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_never_more_than_asked_for_is_found():
    store = PrefixStore(1000, 4)
    remember(store, [1, 2, 3, 4, 5, 6, 7, 8])
    assert store.find([1, 2, 3, 4, 5, 6, 7, 8], 7).num_tokens == 7


def test_a_longer_last_block_takes_the_place_of_its_beginning():
    store = PrefixStore(1000, 4)
    remember(store, [1, 2])
    remember(store, [1, 2, 3])
    remember(store, [1, 2, 3, 4, 5])
    assert store.num_blocks == 2
    assert store.num_bytes == 5


def test_no_sequence_ever_gets_other_tokens_and_the_budget_holds():
    rng = random.Random(7)
    store = PrefixStore(60, 4)
    for _ in range(3000):
        tokens = [rng.randrange(3) for _ in range(rng.randrange(1, 30))]
        found = recall(store, tokens)
        assert found == tokens[: len(found)]
        remember(store, tokens)
        assert store.num_bytes <= 60
        assert store.num_bytes == sum(block.content.num_bytes for block in store._recent)  # the books must agree


def test_the_least_recently_used_end_goes_first():
    store = PrefixStore(12, 4)
    remember(store, [1, 1, 1, 1, 2, 2, 2, 2])
    remember(store, [5, 5, 5, 5])
    recall(store, [1, 1, 1, 1])
    remember(store, [6, 6, 6, 6])
    assert recall(store, [1, 1, 1, 1, 2, 2, 2, 2]) == [1, 1, 1, 1]
    assert recall(store, [5, 5, 5, 5]) == [5, 5, 5, 5]


def test_a_discarded_block_takes_those_after_it_along():
    store = PrefixStore(1000, 2)
    remember(store, [1, 2, 3, 4, 5, 6])
    middle = next(block for block in store._recent if block.tokens == (3, 4))  # as a failed step does
    store.discard(middle)
    assert recall(store, [1, 2, 3, 4, 5, 6]) == [1, 2]
    assert store.num_bytes == 2


def conversations(count: int) -> list[tuple[int, ...]]:
    """Prompts that share beginnings of all lengths."""
    rng = random.Random(3)
    prompts: list[tuple[int, ...]] = []
    for _ in range(count):
        shared = rng.choice(prompts)[: rng.randrange(250)] if prompts else ()
        prompts.append((*shared, *(rng.randrange(5, 60) for _ in range(rng.randrange(1, 150)))))
    return prompts


def answers(engine: Engine, prompts, **given) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Generated ids and cached tokens of every prompt, several at a time."""
    found: dict[str, list[int]] = {}
    cached: dict[str, int] = {}
    left = list(enumerate(prompts))
    while left or engine.has_work:
        while left and engine.num_running + engine.num_waiting < 6:
            number, prompt = left.pop(0)
            sampling = SamplingParams(**{"max_tokens": 5 + number % 70, "temperature": 0, "ignore_eos": True} | given)
            engine.submit(GenerationRequest(str(number), prompt, sampling))
        for output in engine.step():
            assert output.error is None
            cached[output.request_id] = cached.get(output.request_id, 0) + output.cached_tokens
            found.setdefault(output.request_id, []).append(output.token.token_id)
    return found, cached


@pytest.mark.parametrize(
    "family", ["llama", "gemma3", "gpt-oss", "mistral", "gemma3n-text", "gemma4-text", "gemma4-moe"]
)
def test_answers_are_the_same_with_the_store_as_without(long_model, family):
    path, prompts = long_model(family), conversations(60)
    without, _ = answers(Engine(path, EngineSettings(prefix_bytes=0)), prompts)
    engine = Engine(path)
    found, cached = answers(engine, prompts)
    assert found == without
    assert sum(cached.values()) > 1000
    assert engine.stats.cached_tokens == sum(cached.values())


def test_what_a_sequence_wrote_is_found_by_the_next_turn(tiny_llama):
    engine = Engine(tiny_llama)
    prompt = tuple(range(5, 45))
    (answer,) = engine.generate([prompt], SamplingParams(max_tokens=40, temperature=0, ignore_eos=True))
    _, cached = answers(engine, [(*prompt, *answer, 7, 8, 9)])
    assert cached["0"] >= 40 + 39


def test_choices_of_one_prompt_share_its_reading(tiny_llama):
    engine = Engine(tiny_llama)
    _, cached = answers(engine, [tuple(range(5, 85))] * 4)
    assert sorted(cached.values()) == [0, 79, 79, 79]
