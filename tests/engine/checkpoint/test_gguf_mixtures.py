"""GGUFs of families with experts, latents, windows and partial rotation compute what the Hugging Face checkpoints do.

The settings are those that llama.cpp's own converter writes for these checkpoints.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.gguf_names import ARCHITECTURES
from engine.checkpoint.load import load_tensors
from engine.errors import CheckpointUnsupported
from engine.model import outline
from tests.engine.checkpoint.conftest import ARRAY, BOOL, F32, STRING, U32, GGUFFile, GGUFTensor
from tests.engine.checkpoint.test_gguf_families import FIXTURES, TOLERANCE, logits

KINDS = {bool: BOOL, int: U32, float: F32, str: STRING}
WINDOWS = {"attention.sliding_window": 16, "attention.sliding_window_pattern": [True, True, True, False]}
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
}
LATENT = {
    "attention.head_count_kv": 1,
    "attention.key_length": 20,
    "attention.value_length": 12,
    "attention.key_length_mla": 18,
    "attention.value_length_mla": 6,
    "attention.kv_lora_rank": 12,
    "rope.dimension_count": 8,
    "leading_dense_block_count": 1,
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_shared_count": 2,
    "expert_feed_forward_length": 8,
    "expert_weights_scale": 1.7,
}
GRANITE = {"attention.scale": 0.2, "embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 2.0}
# Fixture, llama.cpp's name of the architecture, and the settings that not all families have.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ministral3": (
        "mistral3",
        YARN
        | {
            "rope.scaling.original_context_length": 16,
            "rope.scaling.yarn_log_multiplier": 1.0,
            "attention.temperature_scale": 0.1,
        },
    ),
    "seed-oss": ("seed_oss", {}),
    "ernie4-5": ("ernie4_5", {}),
    "ernie4-5-moe": (
        "ernie4_5-moe",
        {
            "expert_count": 6,
            "expert_used_count": 2,
            "interleave_moe_layer_step": 2,
            "leading_dense_block_count": 1,
            "expert_feed_forward_length": 12,
            "expert_shared_count": 2,
            "expert_shared_feed_forward_length": 16,
        },
    ),
    "exaone4": ("exaone4", WINDOWS),
    "exaone4-full": ("exaone4", {}),
    "olmo": ("olmo", {"attention.clamp_kqv": 0.8}),
    "olmo2": ("olmo2", {}),
    "olmo3-older-keys": (
        "olmo2",
        WINDOWS | YARN | {"rope.scaling.original_context_length": 16, "rope.freq_base_swa": 500_000.0},
    ),
    "glm4": ("glm4", {"rope.dimension_count": 6}),
    "glm4-moe": (
        "glm4moe",
        {
            "block_count": 3,
            "nextn_predict_layers": 1,
            "rope.dimension_count": 6,
            "expert_count": 8,
            "expert_used_count": 3,
            "expert_group_count": 4,
            "expert_group_used_count": 2,
            "expert_gating_func": 2,
            "expert_weights_norm": True,
            "expert_weights_scale": 1.7,
            "expert_shared_count": 1,
            "expert_feed_forward_length": 12,
            "leading_dense_block_count": 1,
        },
    ),
    "minimax-m2": (
        "minimax-m2",
        {
            "rope.dimension_count": 6,
            "expert_count": 8,
            "expert_used_count": 3,
            "expert_gating_func": 2,
            "expert_feed_forward_length": 12,
        },
    ),
    "deepseek-v2": (
        "deepseek2",
        LATENT | {"expert_group_count": 4, "expert_group_used_count": 2, "expert_gating_func": 1},
    ),
    "kimi-k2": (
        "deepseek2",
        LATENT
        | YARN
        | {
            "attention.q_lora_rank": 14,
            "expert_gating_func": 2,
            "expert_weights_norm": True,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.yarn_log_multiplier": 0.1,
        },
    ),
    "qwen2-moe": (
        "qwen2moe",
        {
            "expert_count": 6,
            "expert_used_count": 2,
            "expert_feed_forward_length": 12,
            "expert_shared_feed_forward_length": 16,
        },
    ),
    "granite": ("granite", GRANITE),
    "granitemoe": ("granitemoe", GRANITE | {"expert_count": 4, "expert_used_count": 2}),
    "cohere": ("command-r", {"logit_scale": 0.5, "rope.scaling.type": "none"}),
    "cohere2": ("cohere2", {"logit_scale": 0.5, "attention.sliding_window": 16, "rope.scaling.type": "none"}),
    "stablelm": ("stablelm", {"rope.dimension_count": 4, "use_parallel_residual": False}),
    "lfm2-moe": (
        "lfm2moe",
        {
            "attention.head_count_kv": [0, 2, 0, 2],
            "shortconv.l_cache": 3,
            "expert_count": 5,
            "expert_used_count": 2,
            "expert_gating_func": 2,
            "expert_feed_forward_length": 12,
            "leading_dense_block_count": 1,
        },
    ),
    "gemma": ("gemma", {}),
    "llama4-text": (
        "llama4",
        {
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": 12,
            "feed_forward_length": 24,
            "interleave_moe_layer_step": 2,
        },
    ),
}
# Layers of the fixture that the family's GGUFs cannot have, or settings that they do not state.
CHANGES: dict[str, dict[str, Any]] = {
    "qwen2-moe": {"mlp_only_layers": []},
    "lfm2-moe": {"routed_scaling_factor": 1.0},
    "llama4-text": {
        "no_rope_layers": [1, 1, 1, 0],
        "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
        "attention_chunk_size": 8192,
        "attn_scale": 0.1,
        "floor_scale": 8192,
        "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
    },
}


def metadata_of(config: dict[str, Any], name: str, special: dict[str, Any]) -> dict[str, tuple[int, Any]]:
    """Settings of all families, and the family's own."""
    rms, eps = config.get("rms_norm_eps", config.get("norm_eps")), config.get("layer_norm_eps", 1e-5)
    common = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        ("attention.layer_norm_epsilon" if rms is None else "attention.layer_norm_rms_epsilon"): rms or eps,
        "rope.freq_base": float(rope_base(config)),
    }
    if "head_dim" in config:
        common |= {"attention.key_length": config["head_dim"], "attention.value_length": config["head_dim"]}
    own = {f"{name}.{key}": typed(value) for key, value in (common | special).items()}
    return {"general.architecture": (STRING, name)} | own


def rope_base(config: dict[str, Any]) -> float:
    parameters = config.get("rope_parameters") or {}
    return parameters.get("rope_theta", config.get("rope_theta", 10_000.0))


def typed(value: Any) -> tuple[int, Any]:
    if isinstance(value, list):
        return ARRAY, (KINDS[type(value[0])], value)
    return KINDS[type(value)], value


def tensors_of(folder: Path, name: str) -> list[GGUFTensor]:
    """The checkpoint's tensors as llama.cpp's converter lays them out."""
    row, checkpoint = ARCHITECTURES[name], open_checkpoint(folder)
    model = outline(checkpoint)
    theirs = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight"}
    theirs |= {f"model.norm.{kind}": f"output_norm.{kind}" for kind in ("weight", "bias")}
    theirs |= {"head_bias": "output.bias"}
    for layer in range(checkpoint.config["num_hidden_layers"]):
        for module, target in row.layer_modules.items():
            for kind in ("weight", "bias"):
                stored = target if target.endswith("_bias") else f"{target}.{kind}"
                own = model.rename(f"model.layers.{layer}.{stored}")
                theirs[own or ""] = f"blk.{layer}.{module}.{kind}"
    heads = {"attn_q": checkpoint.config["num_attention_heads"], "attn_k": checkpoint.config["num_key_value_heads"]}
    arrays = {theirs[own]: array for own, array in model.convert(load_tensors(checkpoint)) if own in theirs}
    return [tensor(each, converted(each, np.array(array), row, heads)) for each, array in arrays.items()]


def converted(name: str, values: np.ndarray, row: Any, heads: dict[str, int]) -> np.ndarray:
    module = name.split(".")[-2] if name.startswith("blk.") else ""
    if row.interleaved and module in heads:
        halves = values.reshape(heads[module], 2, -1, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)
    if row.offset_norms and name.endswith("norm.weight"):
        return values + 1
    return values.squeeze() if module in ("conv", "ffn_gate_inp_shexp") else values


def tensor(name: str, values: np.ndarray, kind: str = "F32") -> GGUFTensor:
    data = values.astype("<f4").tobytes() if kind == "F32" else in_blocks(values)
    return GGUFTensor(name, values.shape, kind, data)


def in_blocks(values: np.ndarray) -> bytes:
    """Q8_0: a scale of 16 bits, and 32 integers."""
    blocks = values.reshape(-1, 32)
    scales = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype("<f2")
    integers = np.round(blocks / scales.astype("<f4")).astype(np.int8)
    return np.concatenate([scales.view(np.uint8), integers.view(np.uint8)], axis=1).tobytes()


def changed(tmp_path: Path, fixture: str) -> Path:
    """The fixture with other settings, where its GGUF could not say the same."""
    own = tmp_path / "own"
    own.mkdir()
    config = json.loads((FIXTURES / fixture / "config.json").read_text()) | CHANGES.get(fixture, {})
    (own / "config.json").write_text(json.dumps(config))
    arrays = mx.load(str(FIXTURES / fixture / "model.safetensors"))
    if fixture == "qwen2-moe":
        arrays = {name: array for name, array in arrays.items() if not name.startswith("model.layers.1.mlp.")}
        twins = {name: array for name, array in arrays.items() if name.startswith("model.layers.0.mlp.")}
        arrays |= {name.replace("layers.0", "layers.1"): array for name, array in twins.items()}
    mx.save_safetensors(str(own / "model.safetensors"), arrays)
    return own


@pytest.mark.parametrize("fixture", FAMILIES)
def test_a_gguf_computes_what_the_checkpoint_does(fixture, tmp_path):
    name, special = FAMILIES[fixture]
    folder = changed(tmp_path, fixture)
    config = json.loads((folder / "config.json").read_text())
    path = tmp_path / "model.gguf"
    path.write_bytes(GGUFFile(metadata_of(config, name, special), tensors_of(folder, name)).encode())
    ids = mx.load(str(FIXTURES / fixture / "fixture.safetensors"))["input_ids"].reshape(1, -1)
    assert np.abs(logits(path, ids) - logits(folder, ids)).max() <= TOLERANCE


def test_stacks_of_experts_may_be_quantised(tmp_path):
    fixture = "minimax-m2"
    name, special = FAMILIES[fixture]
    config = json.loads((FIXTURES / fixture / "config.json").read_text())
    tensors = [
        tensor(each.name, np.frombuffer(each.data, "<f4").reshape(each.shape), "Q8_0")
        if each.name.endswith(("ffn_gate_exps.weight", "ffn_up_exps.weight"))
        else each
        for each in tensors_of(FIXTURES / fixture, name)
    ]
    path = tmp_path / "model.gguf"
    path.write_bytes(GGUFFile(metadata_of(config, name, special), tensors).encode())
    quantization = open_checkpoint(path).quantization
    assert set(quantization) == {
        f"model.layers.{layer}.block_sparse_moe.switch_mlp.{part}_proj" for layer in (0, 1) for part in ("gate", "up")
    }
    ids = mx.load(str(FIXTURES / fixture / "fixture.safetensors"))["input_ids"].reshape(1, -1)
    assert 0 < np.abs(logits(path, ids) - logits(FIXTURES / fixture, ids)).max() < 0.2


def test_layers_that_predict_tokens_behind_the_next_are_left_out(tmp_path):
    name, special = FAMILIES["glm4-moe"]
    config = json.loads((FIXTURES / "glm4-moe" / "config.json").read_text())
    extra = tensor("blk.2.nextn.eh_proj.weight", np.zeros((32, 64)))
    path = tmp_path / "model.gguf"
    tensors = [*tensors_of(FIXTURES / "glm4-moe", name), extra]
    path.write_bytes(GGUFFile(metadata_of(config, name, special), tensors).encode())
    checkpoint = open_checkpoint(path)
    assert checkpoint.config["num_hidden_layers"] == 2
    assert not any(".layers.2." in each for each in checkpoint.tensors)


@pytest.mark.parametrize(
    ("fixture", "setting"),
    [
        ("minimax-m2", {"expert_gating_func": 1}),
        ("deepseek-v2", {"expert_weights_norm": True}),
        ("olmo3-older-keys", {"rope.freq_base_swa": 10_000.0}),
        ("seed-oss", {"attention.temperature_scale": 0.1}),
    ],
)
def test_a_setting_that_is_not_implemented_is_refused(fixture, setting, tmp_path):
    name, special = FAMILIES[fixture]
    config = json.loads((FIXTURES / fixture / "config.json").read_text())
    path = tmp_path / "model.gguf"
    file = GGUFFile(metadata_of(config, name, special | setting), tensors_of(FIXTURES / fixture, name))
    path.write_bytes(file.encode())
    with pytest.raises(CheckpointUnsupported):
        outline(open_checkpoint(path))
