"""Keys and values in 8 bits: the kernels against MLX's own operations, and a row against itself in other company."""

import mlx.core as mx
import numpy as np
import pytest

from engine.attention.batch import Batch
from engine.cache.layout import layout_for
from engine.cache.slots import Slab, Slot
from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.model import build_model

CAPACITY = 256
PROMPTS = [[(7 * i * i + 3 * row) % 50 + 5 for i in range(length)] for row, length in enumerate((150, 37, 4))]


@pytest.fixture(params=["llama", "gemma3", "gpt-oss"])
def model(request, packable_model):
    device = prepare_device("native")
    if device.native is None:
        pytest.skip("there are no kernels on this machine")
    return build_model(open_checkpoint(packable_model(request.param)), device), device.native


def filled_slots(model, kernels, prompts, chunk):
    """A slab with a prompt in each slot, read in pieces."""
    slab = Slab(len(prompts), CAPACITY, 0, model.cache, layout_for(8), kernels)
    slots = [Slot(slab, index, CAPACITY) for index in range(len(prompts))]
    for slot, prompt in zip(slots, prompts, strict=True):
        for start in range(0, len(prompt), chunk):
            forward(model, [slot], [prompt[start : start + chunk]])
    return slots


def forward(model, slots, ids):
    batch = Batch(slots)
    hidden = model(mx.array(ids), batch)
    batch.advance(len(ids[0]))
    return np.array(model.logits(hidden[:, -1]))


def decoded(model, kernels, prompts, chunk=64):
    """Logits (steps, rows, vocab_size) of the same tokens behind the prompts."""
    slots = filled_slots(model, kernels, prompts, chunk)
    return np.stack([forward(model, slots, [[9 + step]] * len(slots)) for step in range(4)])


def test_the_kernels_give_the_logits_of_the_operations(model):
    model, kernels = model
    ours, theirs = decoded(model, kernels, PROMPTS), decoded(model, None, PROMPTS)
    # A value between two levels may go to either, so the caches differ in a few levels.
    np.testing.assert_allclose(ours, theirs, atol=0.02)
    np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))


def test_a_row_is_the_same_alone_and_beside_others(model):
    model, kernels = model
    together = decoded(model, kernels, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        np.testing.assert_array_equal(decoded(model, kernels, [prompt])[:, 0], together[:, row])


def test_the_kernels_attend_in_8_bits_and_leave_4_to_the_operations(model):
    model, kernels = model
    assert Slab(1, CAPACITY, 0, model.cache, layout_for(8), kernels).kernels_attend
    assert not Slab(1, CAPACITY, 0, model.cache, layout_for(4), kernels).kernels_attend
