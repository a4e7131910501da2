"""Weights packed as they are loaded compute what a folder quantised before does."""

import mlx.core as mx
import numpy as np
import pytest

from engine.attention.batch import Batch
from engine.cache.layout import Dense
from engine.cache.slots import lone_slot
from engine.checkpoint.checkpoint import open_checkpoint
from engine.conversion.folder_writer import write_folder
from engine.conversion.quantize import quantize
from engine.device import Device, prepare_device
from engine.engine import Engine
from engine.model import build_model
from engine.quantization_rules import QuantizationChoice
from engine.settings import EngineSettings

AS_ON_METAL = Device("metal", None, "", "")
DEVICES = [AS_ON_METAL, prepare_device("off"), prepare_device()]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model in float16, and the same in 8 bits."""
    folder = tmp_path_factory.mktemp("on-load")
    shapes = {"model.embed_tokens.weight": (96, 64), "model.norm.weight": (64,)}
    for prefix in ("model.layers.0", "model.layers.1"):
        shapes |= {f"{prefix}.self_attn.{each}_proj.weight": (64, 64) for each in "qkvo"}
        shapes |= {f"{prefix}.mlp.{each}_proj.weight": (128, 64) for each in ("gate", "up")}
        shapes |= {f"{prefix}.mlp.down_proj.weight": (64, 128)}
        shapes |= {f"{prefix}.{each}_layernorm.weight": (64,) for each in ("input", "post_attention")}
    mx.random.seed(3)
    tensors = {name: (mx.random.normal(shape) * shape[-1] ** -0.5).astype(mx.float16) for name, shape in shapes.items()}
    write_folder(folder / "float", CONFIG, tensors)
    quantize(folder / "float", folder / "8", QuantizationChoice(8))
    return folder


def logits(path, device, bits=None):
    model = build_model(open_checkpoint(path), device, bits=bits)
    ids = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    return np.array(model.logits(model(ids, Batch([lone_slot(model.cache, Dense(), 9)]))).astype(mx.float32))


@pytest.mark.parametrize(
    "device", [AS_ON_METAL, prepare_device("off"), prepare_device()], ids=lambda d: d.kernels or d.kind
)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_dense_model_becomes_what_quantize_would_have_made_of_it(folder, device, bits):
    target = folder / f"{bits}-{device.kind}-{device.kernels[:3]}"
    quantize(folder / "float", target, QuantizationChoice(bits))
    np.testing.assert_array_equal(logits(folder / "float", device, bits), logits(target, device))


def test_what_is_packed_in_as_few_bits_stays_and_what_has_more_is_packed_anew(folder):
    assert np.array_equal(logits(folder / "8", AS_ON_METAL, 8), logits(folder / "8", AS_ON_METAL))
    anew, plain = logits(folder / "8", AS_ON_METAL, 4), logits(folder / "float", AS_ON_METAL, 4)
    assert not np.array_equal(anew, logits(folder / "8", AS_ON_METAL))
    assert np.sqrt(((anew - plain) ** 2).mean() / (plain**2).mean()) < 0.3


def test_an_engine_tells_what_it_has_packed(folder):
    engine = Engine(folder / "float", EngineSettings(bits=4, prefix_bytes=0))
    assert engine.info.quantization == "4-bit on loading"
    assert engine.info.weight_bytes < Engine(folder / "float", EngineSettings(prefix_bytes=0)).info.weight_bytes / 2
