"""Keys that contain the values: stored once, and read the same in whatever company."""

import mlx.core as mx
import numpy as np
import pytest

from engine import Engine
from engine.attention.attend import AttentionOptions
from engine.attention.batch import Batch
from engine.cache.layout import Dense, layout_for
from engine.cache.slots import Slab, Slot
from engine.cache.spec import CacheSpec
from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.engine import EngineSettings
from engine.errors import CheckpointUnsupported
from engine.footprint import measure
from engine.model import build_model
from tests.engine.cache.test_prefixes import answers, conversations

PLAIN = EngineSettings(prefix_bytes=0, max_rows=1)
HEADS, ROPE_DIM, RANK, CAPACITY = 4, 32, 64, 256


@pytest.fixture(scope="module")
def path(long_model):
    return long_model("deepseek-v3")


def test_conversations_are_answered_the_same_with_the_store_as_without(path):
    prompts = conversations(40)
    alone, _ = answers(Engine(path, PLAIN), prompts)
    found, cached = answers(Engine(path, EngineSettings(prefix_bytes=1_000_000)), prompts)
    assert found == alone
    assert sum(cached.values()) > 200


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_prompts_in_pieces_are_prompts_at_once(path, chunk):
    prompts = conversations(8)
    alone, _ = answers(Engine(path, PLAIN), prompts)
    settings = EngineSettings(prefix_bytes=0, prefill_chunk_tokens=chunk, max_rows=4)
    assert answers(Engine(path, settings), prompts)[0] == alone


def test_a_token_takes_a_latent_and_its_shared_key_in_every_layer(path):
    model = build_model(open_checkpoint(path), prepare_device("off"))
    rank, rope_dim, num_layers = 12, 8, 3
    assert measure(model, Dense()).full == num_layers * (rank + rope_dim) * 4


@pytest.fixture(params=["kernels", "operations"])
def kernels(request):
    device = prepare_device("native")
    if device.native is None and request.param == "kernels":
        pytest.skip("there are no kernels on this machine")
    return device.native if request.param == "kernels" else None


def attended(kernels, bits: int | None, lengths: list[int], steps: int = 2) -> np.ndarray:
    """Results of some steps behind prompts of these lengths, (steps, rows, width)."""
    slab = Slab(len(lengths), CAPACITY, 0, CacheSpec([None]), layout_for(bits), kernels)
    slots = [Slot(slab, index, CAPACITY) for index in range(len(lengths))]
    for slot, length in zip(slots, lengths, strict=True):
        forward([slot], length, seeds=[length])
    return np.stack([forward(slots, 1, seeds=[1000 + step + length for length in lengths]) for step in range(steps)])


def forward(slots: list[Slot], length: int, seeds: list[int]) -> np.ndarray:
    def random(width: int) -> mx.array:
        return mx.stack([mx.random.normal((length, width), key=mx.random.key(seed)) for seed in seeds])

    head_dim, batch = ROPE_DIM + RANK, Batch(slots)
    options = AttentionOptions(head_dim**-0.5, value_dim=RANK)
    result = batch.attend(0, random(HEADS * head_dim), random(head_dim), None, options, head_dim=head_dim)
    batch.advance(length)
    return np.array(result[:, -1])


@pytest.mark.parametrize("bits", [None, 8])
def test_a_row_is_the_same_alone_and_beside_others(kernels, bits):
    if kernels is None:
        pytest.skip("operations sum in an order that depends on the shape")
    together = attended(kernels, bits, [150, 37, 4])
    for row, length in enumerate((150, 37, 4)):
        np.testing.assert_array_equal(attended(kernels, bits, [length])[:, 0], together[:, row])


@pytest.mark.parametrize(("bits", "tolerance"), [(None, 1e-5), (8, 0.02), (4, 0.3)])
def test_quantised_keys_are_near_the_whole_ones(kernels, bits, tolerance):
    lengths = [150, 37, 4]
    np.testing.assert_allclose(attended(kernels, bits, lengths), attended(None, None, lengths), atol=tolerance)


def test_values_that_are_no_whole_groups_are_refused():
    planes = layout_for(8).planes(mx.zeros((1, 1, 3, 128)), None)
    with pytest.raises(CheckpointUnsupported, match="groups"):
        layout_for(8).with_values(planes, 100)
