"""Every rotary scaling that a llama GGUF can ask for arrives in config.json's words."""

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.config import ConfigReader
from engine.errors import CheckpointUnsupported
from engine.layers.rope import Rope

U32, F32, STRING = 4, 6, 8
HEAD_DIM = 16


def write(path, file, scaling=None, factors=None, base=10_000.0):
    metadata = dict(file.metadata) | {"llama.rope.freq_base": (F32, base)}
    for key, value in (scaling or {}).items():
        metadata[f"llama.rope.{key}"] = ({int: U32, float: F32, str: STRING}[type(value)], value)
    tensors = list(file.tensors)
    if factors is not None:
        data = np.array(factors, "<f4").tobytes()
        tensors.append(replace(tensors[-1], name="rope_freqs.weight", shape=(len(factors),), data=data))
    path.write_bytes(replace(file, metadata=metadata, tensors=tensors).encode())
    return open_checkpoint(path)


def llama3_factors(base, factor):
    """Meta's published scaling of frequencies (llama-models, apply_scaling), as what each one is divided by."""
    factors = []
    for index in range(0, HEAD_DIM, 2):
        frequency = 1.0 / base ** (index / HEAD_DIM)
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4:
            scaled = frequency
        elif wavelength > 8192 / 1:
            scaled = frequency / factor
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            scaled = (1 - smooth) * frequency / factor + smooth * frequency
        factors.append(frequency / scaled)
    return factors


@pytest.mark.parametrize(("base", "factor"), [(500_000.0, 8.0), (500_000.0, 32.0), (50_000.0, 8.0)])
def test_llama_3_factors_become_llama_3_scaling(base, factor, tmp_path, gguf):
    factors = llama3_factors(base, factor)
    assert len(set(factors)) > 2  # one pair at least lies in the band between
    checkpoint = write(tmp_path / "model.gguf", gguf(), factors=factors, base=base)
    assert checkpoint.config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert not any("rope" in name for name in checkpoint.tensors)


def test_any_other_factors_rotate_as_they_say(tmp_path, gguf):
    factors = [1.0, 1.5, 1.25, 3.0, 7.0, 2.0, 9.0, 4.0]
    config = write(tmp_path / "model.gguf", gguf(), factors=factors).config
    x = mx.random.normal((1, 1, 6, HEAD_DIM), key=mx.random.key(5))
    rotated = Rope(ConfigReader(config).rope(HEAD_DIM))(x, 2, [8])
    angles = np.arange(2, 8)[:, None] / (10_000.0 ** (np.arange(8) / 8) * np.array(factors))
    first, second = np.array(x)[0, 0, :, :8], np.array(x)[0, 0, :, 8:]
    expected = np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), first * np.sin(angles) + second * np.cos(angles)], axis=1
    )
    np.testing.assert_allclose(np.array(rotated)[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "scaling",
    [
        {"scaling.type": "linear", "scaling.factor": 4.0},
        {"scaling.factor": 4.0},
        {"scale_linear": 4.0},
        {"scaling.type": "linear", "scaling.factor": 4.0, "scaling.finetuned": 1},
    ],
)
def test_linear_scaling_is_found_under_old_and_new_keys(scaling, tmp_path, gguf):
    config = write(tmp_path / "model.gguf", gguf(), scaling).config
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize("scaling", [{}, {"scaling.type": "none"}, {"scaling.type": "none", "scaling.factor": 4.0}])
def test_no_scaling_is_none(scaling, tmp_path, gguf):
    assert write(tmp_path / "model.gguf", gguf(), scaling).config["rope_scaling"] is None


def test_yarn_carries_its_numbers(tmp_path, gguf):
    scaling = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 32}
    assert write(tmp_path / "model.gguf", gguf(), scaling).config["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }


def test_yarns_extra_factor_multiplies_the_usual_magnitude(tmp_path, gguf):
    scaling = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.attn_factor": 0.5}
    config = write(tmp_path / "model.gguf", gguf(), scaling).config
    assert config["rope_scaling"]["attention_factor"] == pytest.approx(0.5 * (0.1 * math.log(4.0) + 1.0))


@pytest.mark.parametrize(
    "scaling",
    [
        {"scaling.type": "longrope"},
        {"scaling.type": "spiral", "scaling.factor": 2.0},
        {"scaling.yarn_log_multiplier": 0.1},
        {"scaling.attn_factor": 0.5},
        {"scaling.alpha": 1000.0},
    ],
)
def test_a_scaling_that_is_not_implemented_is_refused(scaling, tmp_path, gguf):
    with pytest.raises(CheckpointUnsupported, match="rope"):
        write(tmp_path / "model.gguf", gguf(), scaling)


def test_factors_beside_another_scaling_are_refused(tmp_path, gguf):
    scaling = {"scaling.type": "linear", "scaling.factor": 2.0}
    with pytest.raises(CheckpointUnsupported, match="linear"):
        write(tmp_path / "model.gguf", gguf(), scaling, factors=[1.0] * 8)
