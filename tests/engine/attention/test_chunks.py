"""Windows that begin anew every so many tokens: stored, in pieces and batched, answers are those of a lone request."""

import mlx.core as mx
import numpy as np
import pytest

from engine import Engine
from engine.attention.uncached_batch import UncachedBatch
from engine.cache.spec import CacheSpec
from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.engine import EngineSettings
from engine.model import build_model
from tests.engine.cache.test_prefixes import answers, conversations

PLAIN = EngineSettings(prefix_bytes=0, max_rows=1)


@pytest.fixture(scope="module")
def path(long_model):
    return long_model("llama4-text")


def test_a_token_sees_its_own_chunk():
    spec = CacheSpec([4, None], chunked=True)
    assert [spec.num_seen(4, position) for position in range(6)] == [1, 2, 3, 4, 1, 2]
    assert [spec.num_seen(None, position) for position in (0, 5)] == [1, 6]


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


def test_a_text_that_is_read_once_sees_the_same(path):
    model = build_model(open_checkpoint(path), prepare_device("off"))
    reference = mx.load(str(path / "fixture.safetensors"))
    ids = reference["input_ids"].reshape(1, -1)
    hidden = model(ids, UncachedBatch(model.cache, [ids.shape[1]]))
    expected = np.array(reference["logits"]).reshape(ids.shape[1], -1)
    np.testing.assert_allclose(np.array(model.logits(hidden)[0]), expected, atol=1e-4)
