"""A llama GGUF says the same as the Hugging Face checkpoint it was converted from."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.load import load_tensors
from engine.errors import CheckpointUnsupported

U32, F32, STRING = 4, 6, 8
HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 4, 2, 16, 64
QUERY, KEY = "blk.0.attn_q.weight", "blk.0.attn_k.weight"


def write(path, file, **metadata):
    kinds = {int: U32, float: F32, str: STRING}
    changes = {key.replace("__", "."): (kinds[type(value)], value) for key, value in metadata.items()}
    path.write_bytes(replace(file, metadata=file.metadata | changes).encode())
    return open_checkpoint(path)


def with_tensors(file, *tensors):
    new = {tensor.name: tensor for tensor in tensors}
    return replace(file, tensors=list(({each.name: each for each in file.tensors} | new).values()))


def with_values(tensor, values):
    return replace(tensor, shape=values.shape, data=values.astype("<f4").tobytes())


def converted(weights, num_heads):
    """llama.cpp's documented reordering of query and key rows (convert_hf_to_gguf.py, `permute`)."""
    halves = weights.reshape(num_heads, 2, weights.shape[0] // num_heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def test_metadata_becomes_the_keys_of_config_json(tmp_path, gguf):
    config = write(tmp_path / "model.gguf", gguf()).config
    assert config.pop("rms_norm_eps") == pytest.approx(1e-5)
    assert config == {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_theta": 10_000.0,
        "rope_scaling": None,
        "vocab_size": 48,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
    }


def test_configuration_survives_json(tmp_path, gguf):
    checkpoint = write(tmp_path / "model.gguf", gguf())
    assert json.loads(json.dumps(checkpoint.config)) == checkpoint.config


def test_names_are_those_of_hugging_face(tmp_path, gguf):
    layer = [
        "input_layernorm",
        "post_attention_layernorm",
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    ]
    expected = {f"model.layers.{number}.{module}.weight" for number in (0, 1) for module in layer}
    checkpoint = write(tmp_path / "model.gguf", gguf())
    assert set(checkpoint.tensors) == expected | {"model.embed_tokens.weight", "model.norm.weight"}
    assert checkpoint.tensors["model.layers.0.mlp.down_proj.weight"].shape == (64, 96)
    assert checkpoint.format == "gguf"


def test_packed_modules_are_known_from_the_header_alone(tmp_path, gguf):
    path = tmp_path / "model.gguf"
    file = gguf()
    path.write_bytes(file.header() + b"\xff" * (len(file.encode()) - len(file.header())))
    quantization = open_checkpoint(path).quantization
    assert {(spec.bits, spec.group_size, spec.mode) for spec in quantization.values()} == {
        (4, 32, "affine"),
        (8, 32, "affine"),
    }
    assert quantization["model.embed_tokens"].bits == 8
    assert len(quantization) == 15
    assert not any("norm" in path for path in quantization)


def test_metadata_defaults_are_those_of_llama_cpp(tmp_path, gguf):
    file = gguf()
    for key in ("llama.attention.head_count_kv", "llama.rope.freq_base", "llama.rope.dimension_count"):
        del file.metadata[key]
    config = write(tmp_path / "model.gguf", file).config
    assert (config["num_key_value_heads"], config["rope_theta"], config["head_dim"]) == (4, 10_000.0, 16)


def test_heads_may_be_longer_than_their_share_of_the_hidden_size(tmp_path, gguf):
    lengths = {f"llama__{key}": 32 for key in ("attention__key_length", "attention__value_length")}
    config = write(tmp_path / "model.gguf", gguf(), **lengths, llama__rope__dimension_count=32).config
    assert config["head_dim"] == 32


def test_an_output_matrix_unties_the_head(tmp_path, gguf, gguf_tensor):
    file = with_tensors(gguf(), gguf_tensor("output.weight", (48, 64), "Q8_0"))
    checkpoint = write(tmp_path / "model.gguf", file)
    assert checkpoint.config["tie_word_embeddings"] is False
    assert checkpoint.quantization["lm_head"].bits == 8
    assert "lm_head.scales" in dict(load_tensors(checkpoint))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({}, {"bos_token_id": 1, "eos_token_id": 2}),
        ({"eot": 2}, {"bos_token_id": 1, "eos_token_id": 2}),
        ({"eot": 5}, {"bos_token_id": 1, "eos_token_id": [2, 5]}),
        ({"eot": 5, "eom": 6}, {"bos_token_id": 1, "eos_token_id": [2, 5, 6]}),
    ],
)
def test_end_tokens_come_from_the_metadata(tokens, expected, tmp_path, gguf):
    keys = {f"tokenizer__ggml__{name}_token_id": value for name, value in tokens.items()}
    assert write(tmp_path / "model.gguf", gguf(), **keys).generation_config == expected


def test_biases_are_found_and_reordered_like_their_weights(tmp_path, gguf, gguf_tensor):
    rows = {"attn_q": 64, "attn_k": 32, "attn_v": 32, "attn_output": 64}
    random = np.random.default_rng(2)
    original = {name: random.standard_normal(count).astype(np.float32) for name, count in rows.items()}
    stored = original | {
        "attn_q": converted(original["attn_q"], HEADS),
        "attn_k": converted(original["attn_k"], KV_HEADS),
    }
    biases = [
        with_values(gguf_tensor(f"blk.{layer}.{name}.bias", values.shape, "F32"), values)
        for layer in (0, 1)
        for name, values in stored.items()
    ]
    checkpoint = write(tmp_path / "model.gguf", with_tensors(gguf(), *biases))
    arrays = dict(load_tensors(checkpoint))
    assert checkpoint.config["attention_bias"] is True
    assert checkpoint.config["mlp_bias"] is False
    for name, module in {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}.items():
        loaded = np.array(arrays[f"model.layers.1.self_attn.{module}.bias"])
        np.testing.assert_array_equal(loaded, original[name])


def test_biases_of_some_projections_only_are_refused(tmp_path, gguf, gguf_tensor):
    file = with_tensors(gguf(), gguf_tensor("blk.0.attn_q.bias", (64,), "F32"))
    with pytest.raises(CheckpointUnsupported, match="attn_q"):
        write(tmp_path / "model.gguf", file)


def test_query_and_key_rows_are_back_in_hugging_faces_order(tmp_path, gguf, gguf_tensor):
    random = np.random.default_rng(3)
    queries, keys = (random.standard_normal((n * HEAD_DIM, HIDDEN)).astype(np.float32) for n in (HEADS, KV_HEADS))
    tensors = {tensor.name: tensor for tensor in gguf("F32").tensors}
    file = with_tensors(
        gguf("F32"),
        with_values(tensors[QUERY], converted(queries, HEADS)),
        with_values(tensors[KEY], converted(keys, KV_HEADS)),
    )
    arrays = dict(load_tensors(write(tmp_path / "model.gguf", file)))
    np.testing.assert_array_equal(np.array(arrays["model.layers.0.self_attn.q_proj.weight"]), queries)
    np.testing.assert_array_equal(np.array(arrays["model.layers.0.self_attn.k_proj.weight"]), keys)
    values = tensors["blk.0.attn_v.weight"].data
    assert np.array(arrays["model.layers.0.self_attn.v_proj.weight"]).tobytes() == values


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_packed_rows_are_reordered_as_dense_ones_are(kind, tmp_path, gguf):
    """The same blocks under another name, where no reordering is due, give the same rows in the file's order."""
    file = gguf(kind)
    tensors = {tensor.name: tensor for tensor in file.tensors}
    file = with_tensors(file, replace(tensors["blk.0.attn_output.weight"], data=tensors[QUERY].data))
    arrays = dict(load_tensors(write(tmp_path / "model.gguf", file)))
    for part in ("weight", "scales", "biases"):
        in_order = np.array(arrays[f"model.layers.0.self_attn.q_proj.{part}"])
        as_stored = np.array(arrays[f"model.layers.0.self_attn.o_proj.{part}"])
        np.testing.assert_array_equal(converted(in_order, HEADS), as_stored)


def test_attention_scores_are_those_of_the_interleaved_rotation(tmp_path, gguf):
    """What llama.cpp computes from the stored rows, and Hugging Face's rotation from the loaded ones, agree."""
    file = gguf("F32")
    stored = {tensor.name: tensor for tensor in file.tensors}
    arrays = dict(load_tensors(write(tmp_path / "model.gguf", file)))
    x = mx.random.normal((1, 5, HIDDEN), key=mx.random.key(4))

    def heads(weight, count, *, interleaved):
        states = (x @ weight.T).reshape(1, 5, count, HEAD_DIM).swapaxes(1, 2)
        return mx.fast.rope(states, HEAD_DIM, traditional=interleaved, base=10_000.0, scale=1.0, offset=3)

    def scores(queries, keys, *, interleaved):
        rotated_keys = mx.repeat(heads(keys, KV_HEADS, interleaved=interleaved), HEADS // KV_HEADS, axis=1)
        return heads(queries, HEADS, interleaved=interleaved) @ rotated_keys.swapaxes(2, 3)

    as_stored = [mx.array(np.frombuffer(stored[name].data, "<f4").reshape(-1, HIDDEN)) for name in (QUERY, KEY)]
    loaded = [arrays[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qk"]
    expected = scores(*as_stored, interleaved=True)
    assert mx.allclose(scores(*loaded, interleaved=False), expected, rtol=1e-4, atol=1e-3)
    assert not mx.allclose(scores(*as_stored, interleaved=False), expected, rtol=1e-1, atol=1e-1)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_other_architectures_are_rows_of_a_table(architecture, tmp_path, gguf, gguf_tensor):
    file = gguf("F32")
    metadata = {key.replace("llama.", f"{architecture}."): value for key, value in file.metadata.items()}
    metadata["general.architecture"] = (STRING, architecture)
    biases = [gguf_tensor(f"blk.0.attn_{name}.bias", (rows,), "F32") for name, rows in {"q": 64, "k": 32}.items()]
    norms = [gguf_tensor(f"blk.0.attn_{name}_norm.weight", (16,), "F32") for name in "qk"]
    extra = biases if architecture == "qwen2" else norms
    checkpoint = write(tmp_path / "model.gguf", replace(with_tensors(file, *extra), metadata=metadata))
    name = "q_proj.bias" if architecture == "qwen2" else "q_norm.weight"
    stored = next(tensor for tensor in file.tensors if tensor.name == QUERY)
    assert checkpoint.config["model_type"] == architecture
    assert f"model.layers.0.self_attn.{name}" in checkpoint.tensors
    loaded = dict(load_tensors(checkpoint))["model.layers.0.self_attn.q_proj.weight"]
    assert np.array(loaded).tobytes() == stored.data
