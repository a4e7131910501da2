"""GGUFs of hybrids, as llama.cpp's converter writes them, compute what the Hugging Face checkpoints do."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.gguf_names import ARCHITECTURES
from engine.checkpoint.load import load_tensors
from engine.model import outline
from tests.engine.checkpoint.conftest import GGUFFile, GGUFTensor
from tests.engine.checkpoint.test_gguf_families import FIXTURES, TOLERANCE, logits
from tests.engine.checkpoint.test_gguf_mixtures import metadata_of, tensor

DELTA = {
    "ssm.conv_kernel": 4,
    "ssm.state_size": 8,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 4,
    "ssm.inner_size": 64,
    "rope.dimension_count": 8,
    "full_attention_interval": 4,
}
QWEN35 = DELTA | {"rope.dimension_sections": [11, 11, 10, 0]}
EXPERTS = {
    "expert_count": 6,
    "expert_used_count": 2,
    "expert_feed_forward_length": 12,
    "expert_shared_feed_forward_length": 16,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-5-text": ("qwen35", QWEN35 | {"attention.recurrent_layers": [True, True, False, True]}),
    "qwen3-5-moe-text": ("qwen35moe", QWEN35 | EXPERTS | {"attention.recurrent_layers": [True, True, False]}),
    "qwen3-next": ("qwen3next", DELTA | EXPERTS | {"full_attention_interval": 3}),
}
VALUE_HEADS, KEY_HEADS, KEY_DIM = 4, 2, 8


def tensors_of(folder: Path, name: str) -> list[GGUFTensor]:
    """The checkpoint's tensors as llama.cpp's converter lays them out."""
    row, checkpoint = ARCHITECTURES[name], open_checkpoint(folder)
    model = outline(checkpoint)
    theirs = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight"}
    theirs |= {"model.norm.weight": "output_norm.weight"}
    for layer in range(checkpoint.config["num_hidden_layers"]):
        for module, target in row.layer_modules.items():
            for kind in ("weight", "bias"):
                theirs[f"model.layers.{layer}.{target}.{kind}"] = f"blk.{layer}.{module}.{kind}"
            alone = f"blk.{layer}.{module}" + (".bias" if target.endswith("dt_bias") else "")
            theirs[f"model.layers.{layer}.{target}"] = alone
    arrays = {theirs[own]: np.array(array) for own, array in model.convert(load_tensors(checkpoint)) if own in theirs}
    if name == "qwen3next":
        for own, array in load_tensors(checkpoint):
            if ".in_proj_qkvz." not in own:
                continue
            layer, (qkv, gate) = own.split(".")[2], parted(np.array(array))
            arrays |= {f"blk.{layer}.attn_qkv.weight": qkv, f"blk.{layer}.attn_gate.weight": gate}
    return [tensor(each, converted(each, array, tiled=name != "qwen3next")) for each, array in arrays.items()]


def parted(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries, keys and values, then gates, of rows that go key head by key head."""
    by_head = rows.reshape(KEY_HEADS, -1, rows.shape[-1])
    width = (by_head.shape[1] - 2 * KEY_DIM) // 2
    parts = np.split(by_head, [KEY_DIM, 2 * KEY_DIM, 2 * KEY_DIM + width], axis=1)
    *mixed, gate = (part.reshape(-1, rows.shape[-1]) for part in parts)
    return np.concatenate(mixed), gate


def converted(name: str, values: np.ndarray, *, tiled: bool) -> np.ndarray:
    module = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    if module == "ssm_a":
        values = -np.exp(values)
    if module.endswith("norm") and module != "ssm_norm":
        values = values + 1
    if module == "ssm_conv1d":
        values = values.squeeze()
    if not tiled:
        return values
    if module in ("attn_gate", "ssm_alpha", "ssm_beta", "ssm_a", "ssm_dt"):
        return in_turns(values)
    if module == "ssm_out":
        return in_turns(values.T).T
    if module in ("attn_qkv", "ssm_conv1d"):
        first, values = np.split(values, [2 * KEY_HEADS * KEY_DIM])
        return np.concatenate([first, in_turns(values)])
    return values


def in_turns(rows: np.ndarray) -> np.ndarray:
    """Value heads: the first of every key head, then the second of every key head."""
    heads = rows.reshape(KEY_HEADS, VALUE_HEADS // KEY_HEADS, -1, *rows.shape[1:])
    return heads.swapaxes(0, 1).reshape(rows.shape)


def with_experts(fixture: str, tmp_path: Path) -> Path:
    """The fixture, with experts in every layer where llama.cpp has no other layers."""
    config = json.loads((FIXTURES / fixture / "config.json").read_text())
    dense = config.get("mlp_only_layers")
    if not dense:
        return FIXTURES / fixture
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text(json.dumps(config | {"mlp_only_layers": []}))
    arrays = mx.load(str(FIXTURES / fixture / "model.safetensors"))
    sparse = next(layer for layer in range(config["num_hidden_layers"]) if layer not in dense)
    for layer in dense:
        arrays = {name: array for name, array in arrays.items() if not name.startswith(f"model.layers.{layer}.mlp.")}
        prefix = f"model.layers.{sparse}."
        twins = {name: array for name, array in arrays.items() if name.startswith(f"{prefix}mlp.")}
        arrays |= {name.replace(prefix, f"model.layers.{layer}."): array for name, array in twins.items()}
    mx.save_safetensors(str(own / "model.safetensors"), arrays)
    return own


@pytest.mark.parametrize("fixture", FAMILIES)
def test_a_gguf_computes_what_the_checkpoint_does(fixture, tmp_path):
    name, special = FAMILIES[fixture]
    folder, path = with_experts(fixture, tmp_path), tmp_path / "model.gguf"
    config = json.loads((folder / "config.json").read_text())
    config = {"intermediate_size": 40} | config
    path.write_bytes(GGUFFile(metadata_of(config, name, special), tensors_of(folder, name)).encode())
    ids = mx.load(str(FIXTURES / fixture / "fixture.safetensors"))["input_ids"].reshape(1, -1)
    assert np.abs(logits(path, ids) - logits(folder, ids)).max() <= TOLERANCE
