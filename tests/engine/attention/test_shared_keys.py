"""Layers that read what another has stored: the same keys in every form of a pass, and no memory of their own."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from engine import Engine
from engine.attention.attend import AttentionOptions
from engine.attention.batch import Batch
from engine.attention.qkv import Rotation
from engine.attention.uncached_batch import UncachedBatch
from engine.cache.layout import Dense, layout_for
from engine.cache.slots import Slab, Slot, lone_slot
from engine.cache.spec import CacheSpec
from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.engine import EngineSettings
from engine.footprint import measure
from engine.model import build_model
from tests.engine.cache.test_prefixes import answers, conversations

PLAIN = EngineSettings(prefix_bytes=0, max_rows=1)
CAPACITY, HEADS, KV_HEADS, HEAD_DIM = 256, 4, 2, 32
PROMPTS = [[(7 * i * i + 3 * row) % 50 + 5 for i in range(length)] for row, length in enumerate((150, 37, 4))]


@pytest.fixture(params=["kernels", "operations"])
def kernels(request):
    device = prepare_device("native")
    if device.native is None and request.param == "kernels":
        pytest.skip("there are no kernels on this machine")
    return device.native if request.param == "kernels" else None


def read_and_read_again(batch, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A layer's result for random queries, and that of a layer which reads its keys with the same queries."""
    rows = len(batch.planned_lengths)
    sizes = zip((HEADS, KV_HEADS, KV_HEADS), mx.random.split(mx.random.key(seed), 3), strict=True)
    queries, keys, values = (mx.random.normal((rows, length, heads * HEAD_DIM), key=key) for heads, key in sizes)
    options = AttentionOptions(HEAD_DIM**-0.5)
    given = {"head_dim": HEAD_DIM, "rotation": Rotation(mx.array([10.0 ** (i / 4) for i in range(16)]), 0)}
    own = batch.attend(0, queries, keys, values, options, **given)
    again = batch.attend_stored(0, queries, options, **given)
    batch.advance(length)
    return np.array(own), np.array(again)


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("window", [None, 16])
def test_a_reader_with_the_same_queries_has_the_same_result(kernels, window, bits):
    """Also in the pass in which a prompt runs past the ring's end, and when the ring has come round."""
    slab = Slab(3, CAPACITY, 0, CacheSpec([window], readers=[0]), layout_for(bits), kernels)
    slots = [Slot(slab, index, CAPACITY) for index in range(3)]
    passes = [
        ([slot], length) for slot, lengths in zip(slots, ([9], [12, 30, 1], [40]), strict=True) for length in lengths
    ]
    for number, (rows, length) in enumerate([*passes, *[(slots, 1)] * 4, ([slots[1]], 1)]):
        own, again = read_and_read_again(Batch(rows), length, number)
        np.testing.assert_array_equal(own, again)


@pytest.mark.parametrize("window", [None, 16])
def test_whole_texts_are_read_as_sequences_are(window):
    spec = CacheSpec([window], readers=[0])
    _, uncached = read_and_read_again(UncachedBatch(spec, [40]), 40, 3)
    _, cached = read_and_read_again(Batch([lone_slot(spec, Dense(), 40)]), 40, 3)
    np.testing.assert_allclose(uncached, cached, atol=1e-5)


@pytest.fixture(params=["gemma3n-text", "gemma4-text"])
def path(request, long_model):
    return long_model(request.param)


def logits(path, prompts, chunk: int) -> np.ndarray:
    """Of four tokens behind each of the prompts, (steps, rows, vocab_size); prompts are read in pieces."""
    device = prepare_device("native")
    if device.native is None:
        pytest.skip("there are no kernels on this machine")
    model = build_model(open_checkpoint(path), device)
    slab = Slab(len(prompts), CAPACITY, 0, model.cache, Dense(), device.native)
    slots = [Slot(slab, index, CAPACITY) for index in range(len(prompts))]

    def forward(rows, ids):
        batch = Batch(rows)
        hidden = model(mx.array(ids), batch)
        batch.advance(len(ids[0]))
        return np.array(model.logits(hidden[:, -1]))

    for slot, prompt in zip(slots, prompts, strict=True):
        for start in range(0, len(prompt), chunk):
            forward([slot], [prompt[start : start + chunk]])
    return np.stack([forward(slots, [[9 + step]] * len(slots)) for step in range(4)])


def test_a_row_is_the_same_alone_and_beside_others(path):
    together = logits(path, PROMPTS, 256)
    for row, prompt in enumerate(PROMPTS):
        np.testing.assert_array_equal(logits(path, [prompt], 256)[:, 0], together[:, row])


@pytest.mark.parametrize("chunk", [7, 16])
def test_pieces_of_a_prompt_differ_in_the_order_of_the_rings_sums_alone(path, chunk):
    np.testing.assert_allclose(logits(path, PROMPTS, chunk), logits(path, PROMPTS, 256), atol=1e-5)
    np.testing.assert_array_equal(logits(path, PROMPTS[1:2], chunk), logits(path, PROMPTS[1:2], 256))


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_prompts_in_pieces_are_prompts_at_once(path, chunk):
    prompts = conversations(8)
    alone, _ = answers(Engine(path, PLAIN), prompts)
    found, _ = answers(Engine(path, replace(PLAIN, prefill_chunk_tokens=chunk, max_rows=4)), prompts)
    assert found == alone


def test_paused_sequences_go_on_as_if_they_had_never_been_paused(path):
    prompts = [tuple(range(5 + number, 80 + number)) for number in range(4)]
    alone, _ = answers(Engine(path, PLAIN), prompts, max_tokens=600)
    one = measure(build_model(open_checkpoint(path), prepare_device("off")), Dense()).slot_bytes(1024)
    engine = Engine(path, EngineSettings(kv_bytes=int(2.5 * one), max_rows=4))
    found, _ = answers(engine, prompts, max_tokens=600)
    assert found == alone
    assert engine.stats.num_preemptions > 0


def test_readers_take_no_memory(path):
    model = build_model(open_checkpoint(path), prepare_device("off"))
    head_bytes = {"gemma3n-text": (8, 8), "gemma4-text": (16, 8)}[path.name]
    full, sliding = (2 * 2 * dim * 4 for dim in head_bytes)
    bytes_per_token = measure(model, Dense())
    num_full, num_sliding = {"gemma3n-text": (2, 2), "gemma4-text": (1, 2)}[path.name]
    assert bytes_per_token.full == num_full * full
    assert bytes_per_token.windows == ((16, num_sliding * sliding),)
    assert Engine(path).info.num_layers == 6
