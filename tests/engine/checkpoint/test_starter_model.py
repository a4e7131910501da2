"""The starter model, a real Q4_1 file with an 8-bit embedding, as others made it."""

import time

import mlx.core as mx
import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.load import load_tensors

BLOCK = {
    "Q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]),
    "Q8_0": np.dtype([("d", "<f2"), ("q", "i1", 32)]),
}


@pytest.fixture(scope="module")
def checkpoint(starter_model):
    return open_checkpoint(starter_model)


def reference(entry):
    """A tensor's values in float32, from the definition of its blocks; rows in the file's order."""
    data = np.fromfile(
        entry.file, BLOCK[entry.dtype], entry.num_bytes // BLOCK[entry.dtype].itemsize, offset=entry.offset
    )
    scales = data["d"].astype(np.float32)[:, None]
    if entry.dtype == "Q8_0":
        return (scales * data["q"]).reshape(entry.shape)
    nibbles = np.concatenate([data["q"] & 15, data["q"] >> 4], axis=1)
    return (scales * nibbles + data["m"].astype(np.float32)[:, None]).reshape(entry.shape)


def test_its_configuration_is_that_of_smollm2(checkpoint):
    expected = {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49_152,
        "max_position_embeddings": 8192,
        "rope_theta": 100_000.0,
        "tie_word_embeddings": True,
    }
    assert {key: checkpoint.config[key] for key in expected} == expected
    assert checkpoint.generation_config == {"bos_token_id": 1, "eos_token_id": 2}
    assert len(checkpoint.gguf_metadata["tokenizer.ggml.tokens"]) == 49_152
    assert (len(checkpoint.tensors), len(checkpoint.quantization)) == (272, 211)
    assert checkpoint.quantization["model.embed_tokens"].bits == 8


def test_every_packed_matrix_has_the_values_of_the_file(checkpoint):
    arrays = dict(load_tensors(checkpoint))
    for module, spec in checkpoint.quantization.items():
        entry = checkpoint.tensors[f"{module}.weight"]
        scales, biases = (arrays[f"{module}.{name}"].astype(mx.float32) for name in ("scales", "biases"))
        values = np.array(mx.dequantize(arrays[f"{module}.weight"], scales, biases, group_size=32, bits=spec.bits))
        expected = reference(entry)
        if entry.interleaved_heads:
            pairs = expected.reshape(entry.interleaved_heads, 32, 2, -1)
            expected = np.concatenate([pairs[:, :, 0], pairs[:, :, 1]], axis=1).reshape(values.shape)
        np.testing.assert_array_equal(values, expected, err_msg=module)


def test_it_opens_and_loads_quickly(checkpoint):
    started = time.process_time()
    open_checkpoint(checkpoint.path)
    opened = time.process_time()
    arrays = dict(load_tensors(checkpoint))
    mx.eval(arrays)
    assert opened - started < 0.2
    assert time.process_time() - opened < 1.5
