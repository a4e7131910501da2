"""Whole models with the kernels against the same models without them."""

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from engine.attention.batch import Batch
from engine.cache.layout import Dense
from engine.cache.slots import lone_slot
from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.model import build_model
from engine.text.load import load_tokenizer

FIXTURES = Path(__file__).parents[2] / "engine" / "architectures" / "fixtures"
# The activations of packed products keep 15 bits.
PACKED_TOLERANCE = 2e-2
PARAGRAPH = (
    "The harbour lay quiet under a thin fog. Two fishermen mended their nets and spoke of the price of diesel, of the "
    "weather, and of a seal that had followed the boat for three days. A train left the station at 7:45 with 12 "
    "carriages; def area(radius): return 3.14159 * radius ** 2. In 1854 the physician John Snow drew a map of the "
    "pumps in Soho, and showed that those who had fallen ill drank from one of them. "
)


def model_with(path: Path, kernels):
    device = prepare_device(kernels)
    if kernels != "off" and device.native is None:
        pytest.skip(device.kernels)
    return build_model(open_checkpoint(path), device)


def logits(model, ids: list[int]) -> np.ndarray:
    batch = Batch([lone_slot(model.cache, Dense(), len(ids))])
    return np.array(model.logits(model(mx.array(ids)[None], batch))[0])


def test_the_starter_model_answers_as_its_dequantised_weights_do(starter_model):
    ids = list(load_tokenizer(open_checkpoint(starter_model)).encode(PARAGRAPH * 6))[:512]
    assert len(ids) == 512
    reference = logits(model_with(starter_model, "off"), ids)
    found = logits(model_with(starter_model, "native"), ids)
    assert np.abs(found - reference).max() < PACKED_TOLERANCE
    assert np.mean(found.argmax(-1) == reference.argmax(-1)) >= 0.99


@pytest.mark.parametrize("name", ["llama", "mixtral", "gemma2", "gpt-oss", "olmo2", "deepseek-v2"])
def test_families_give_the_same_logits_with_and_without_kernels(name):
    ids = [3, 17, 4, 9, 1, 25, 8, 2, 11, 30, 6, 5, 19]
    found, reference = (logits(model_with(FIXTURES / name, kernels), ids) for kernels in ("native", "off"))
    np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-4)


def test_a_worker_with_packed_weights_stays_small(starter_model, pytestconfig):
    if pytestconfig.getoption("--checked"):
        pytest.skip("sanitizers need memory of their own")
    if prepare_device("native").native is None:
        pytest.skip("there are no kernels here")
    code = (
        "import resource, sys, psutil; from engine.engine import Engine, EngineSettings\n"
        "before = psutil.Process().memory_info().rss\n"
        "engine = Engine(sys.argv[1], EngineSettings(kv_bytes=64 << 20, prefix_bytes=0))\n"
        "engine.generate([[1, 2, 3]])\n"
        "print(psutil.Process().memory_info().rss, engine.info.weight_bytes)"
    )
    command = [sys.executable, "-c", code, str(starter_model)]
    resident, weights = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    assert resident < 2.2 * weights
