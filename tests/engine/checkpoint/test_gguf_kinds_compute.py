"""A GGUF of any mixture of types computes what the same model does with its weights expanded."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from engine.attention.batch import Batch
from engine.cache.layout import Dense
from engine.cache.slots import lone_slot
from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.ggml_types import BY_NAME
from engine.device import Device, prepare_device
from engine.model import build_model

AS_ON_METAL = Device("metal", None, "", "")
HIDDEN = 256


def random_tensor(tensor, kind, random):
    """A tensor of that type with random bits and small scales, and its values."""
    known = BY_NAME[kind]
    count = int(np.prod(tensor.shape)) // known.block_values
    blocks = random.integers(0, 256, (count, known.block_bytes), dtype=np.uint8)
    places = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q2_K": (80, 82), "Q3_K": (108,)}.get(kind, (0,))
    size = {"Q6_K": 2e-5, "Q3_K": 1e-4, "Q4_K": 1e-4, "Q5_K": 1e-4, "IQ4_XS": 1e-5}.get(kind, 2e-3)
    for start in places:
        scales = (size * random.uniform(0.5, 1.0, count)).astype("<f2")
        blocks[:, start : start + 2] = scales.view(np.uint8).reshape(-1, 2)
    number = GGMLQuantizationType[kind]
    values = quants.dequantize(blocks.reshape(tensor.shape[0], -1), number)
    return replace(tensor, kind=int(number), data=blocks.tobytes()), replace(tensor, kind=0, data=values.tobytes())


def widened(file):
    """The tiny model with matrices wide enough for blocks of 256."""
    sizes = {64: HIDDEN, 96: 512, 32: 128}
    tensors = [
        replace(each, shape=tuple(sizes.get(n, n) for n in each.shape))
        if each.name != "token_embd.weight"
        else replace(each, shape=(each.shape[0], HIDDEN))
        for each in file.tensors
    ]
    metadata = file.metadata | {
        "llama.embedding_length": (4, HIDDEN),
        "llama.feed_forward_length": (4, 512),
        "llama.rope.dimension_count": (4, 64),
    }
    norms = [
        replace(each, data=np.ones(each.shape, "<f4").tobytes()) if len(each.shape) == 1 else each for each in tensors
    ]
    return replace(file, tensors=norms, metadata=metadata)


def logits(path, device):
    model = build_model(open_checkpoint(path), device)
    ids = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    return np.array(model.logits(model(ids, Batch([lone_slot(model.cache, Dense(), 9)]))).astype(mx.float32))


@pytest.mark.parametrize(
    "kinds",
    [("Q4_K", "Q6_K"), ("Q5_K", "Q5_0"), ("Q3_K", "IQ4_XS"), ("IQ2_S", "IQ4_NL")],
    ids="-".join,
)
def test_a_mixture_computes_what_its_values_do(kinds, tmp_path, gguf):
    file, random = widened(gguf()), np.random.default_rng(5)
    matrices = [each for each in file.tensors if len(each.shape) == 2]
    drawn = {each.name: random_tensor(each, kinds[i % 2], random) for i, each in enumerate(matrices)}
    for name, which in (("packed", 0), ("expanded", 1)):
        tensors = [drawn[each.name][which] if each.name in drawn else each for each in file.tensors]
        (tmp_path / f"{name}.gguf").write_bytes(replace(file, tensors=tensors).encode())
    device = prepare_device()
    expected = logits(tmp_path / "expanded.gguf", prepare_device("off"))
    assert np.isfinite(expected).all()
    assert np.abs(expected).max() > 0
    for each, bound in ((prepare_device("off"), 1e-5), (device, 1e-3), (AS_ON_METAL, 5e-3)):
        found = logits(tmp_path / "packed.gguf", each)
        error = np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())
        assert error <= bound, json.dumps([each.kind, each.kernels, float(error)])
