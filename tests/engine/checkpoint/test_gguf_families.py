"""GGUFs of several families, as llama.cpp's converter writes them, compute what the Hugging Face checkpoints do."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from engine.attention.batch import Batch
from engine.cache.layout import Dense
from engine.cache.slots import lone_slot
from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.gguf_names import ARCHITECTURES
from engine.checkpoint.load import load_tensors
from engine.device import prepare_device
from engine.errors import CheckpointUnsupported
from engine.model import build_model
from tests.engine.checkpoint.conftest import ARRAY, BOOL, F32, STRING, U32, GGUFFile, GGUFTensor

FIXTURES = Path(__file__).parents[1] / "architectures" / "fixtures"
TOLERANCE = 1e-4
Metadata = dict[str, tuple[int, Any]]


def metadata_of(config: dict[str, Any], name: str, special: Metadata) -> Metadata:
    """The keys of all families, and the family's own."""
    common: Metadata = {
        "block_count": (U32, config["num_hidden_layers"]),
        "context_length": (U32, config["max_position_embeddings"]),
        "embedding_length": (U32, config["hidden_size"]),
        "feed_forward_length": (U32, config["intermediate_size"]),
        "attention.head_count": (U32, config["num_attention_heads"]),
        "attention.head_count_kv": (U32, config["num_key_value_heads"]),
        "attention.key_length": (U32, config["head_dim"]),
        "attention.value_length": (U32, config["head_dim"]),
        "attention.layer_norm_rms_epsilon": (F32, config["rms_norm_eps"]),
        "attention.sliding_window": (U32, config["sliding_window"]),
    }
    own = {f"{name}.{key}": value for key, value in (common | special).items()}
    return {"general.architecture": (STRING, name)} | own


def tensors_of(folder: Path, name: str) -> list[GGUFTensor]:
    """The fixture's tensors under llama.cpp's names; 1 is added to norms where its converter does."""
    architecture = ARCHITECTURES[name]
    theirs = {ours: module for module, ours in architecture.layer_modules.items()}
    theirs |= {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    theirs |= {
        "model.embed_tokens_per_layer": "per_layer_token_embd",
        "model.per_layer_model_projection": "per_layer_model_proj",
        "model.per_layer_projection_norm": "per_layer_proj_norm",
    }
    tensors = []
    for own, array in load_tensors(open_checkpoint(folder)):
        path, _, kind = (own if own.endswith(".weight") else f"{own}.weight").rpartition(".")
        layer, _, module = path.removeprefix("model.layers.").partition(".")
        module = f"blk.{layer}.{theirs[module]}" if path.startswith("model.layers.") else theirs[path]
        values = np.array(array) + (1.0 if architecture.offset_norms and path.endswith("norm") else 0.0)
        tensors.append(GGUFTensor(f"{module}.{kind}", values.shape, "F32", values.astype("<f4").tobytes()))
    return tensors


def logits(path: Path, ids: mx.array) -> np.ndarray:
    model = build_model(open_checkpoint(path), prepare_device("off"))
    slot = lone_slot(model.cache, Dense(), ids.shape[1])
    return np.array(model.logits(model(ids, Batch([slot])))[0])


def written(tmp_path: Path, fixture: str, name: str, special: Metadata, **changes: Any) -> Path:
    config = open_checkpoint(FIXTURES / fixture).config | changes
    path = tmp_path / "model.gguf"
    tensors = tensors_of(FIXTURES / fixture, name)
    if name == "gemma4":
        # A quarter of the pairs of the full layers' heads turns.
        factors = np.array([1.0] * 2 + [1e30] * 6, "<f4")
        tensors.append(GGUFTensor("rope_freqs.weight", factors.shape, "F32", factors.tobytes()))
    path.write_bytes(GGUFFile(metadata_of(config, name, special), tensors).encode())
    return path


def gemma4(pattern: list[bool], **special: tuple[int, Any]) -> Metadata:
    """Gemma 4's own keys, of the fixtures' sizes."""
    return {
        "attention.key_length": (U32, 16),
        "attention.value_length": (U32, 16),
        "attention.key_length_swa": (U32, 8),
        "attention.value_length_swa": (U32, 8),
        "rope.dimension_count": (U32, 16),
        "rope.dimension_count_swa": (U32, 8),
        "rope.freq_base": (F32, 5000.0),
        "rope.freq_base_swa": (F32, 500.0),
        "attention.sliding_window_pattern": (ARRAY, (BOOL, pattern)),
        "final_logit_softcapping": (F32, 5.0),
    } | {key.replace("__", "."): value for key, value in special.items()}


FAMILIES: dict[str, tuple[str, str, Metadata]] = {
    "gemma2": (
        "gemma2",
        "gemma2",
        {"attn_logit_softcapping": (F32, 5.0), "final_logit_softcapping": (F32, 3.0)},
    ),
    "gemma3": (
        "gemma3-older-keys",
        "gemma3",
        {
            "rope.freq_base": (F32, 5000.0),
            "rope.freq_base_swa": (F32, 500.0),
            "rope.scaling.type": (STRING, "linear"),
            "rope.scaling.factor": (F32, 4.0),
            "attention.sliding_window_pattern": (U32, 3),
        },
    ),
    "gemma4": (
        "gemma4-text",
        "gemma4",
        gemma4(
            [True, True, False] * 2,
            attention__shared_kv_layers=(U32, 3),
            embedding_length_per_layer_input=(U32, 8),
            feed_forward_length=(ARRAY, (U32, [12, 12, 12, 24, 24, 24])),
        ),
    ),
    "gemma4-larger": (
        "gemma4-unified",
        "gemma4",
        gemma4(
            [True, True, False],
            attention__shared_kv_layers=(U32, 0),
            embedding_length_per_layer_input=(U32, 0),
            attention__head_count_kv=(ARRAY, (U32, [2, 2, 1])),
        ),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_computes_what_the_checkpoint_does(family, tmp_path):
    fixture, name, special = FAMILIES[family]
    ids = mx.load(str(FIXTURES / fixture / "fixture.safetensors"))["input_ids"].reshape(1, -1)
    config = json.loads((FIXTURES / fixture / "config.json").read_text())
    if "query_pre_attn_scalar" in config:
        config["query_pre_attn_scalar"] = config["head_dim"]  # by which llama.cpp scales scores
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text(json.dumps(config))
    (own / "model.safetensors").write_bytes((FIXTURES / fixture / "model.safetensors").read_bytes())
    found = logits(written(tmp_path, fixture, name, special), ids)
    assert np.abs(found - logits(own, ids)).max() <= TOLERANCE


def test_windows_of_a_gguf_follow_the_pattern_of_its_family(tmp_path):
    path = written(tmp_path, "gemma3", "gemma3", {})
    windows = build_model(open_checkpoint(path), prepare_device("off")).cache.windows
    assert list(windows) == [16] * len(windows)  # every sixth sees everything; there are fewer


def test_a_setting_that_a_family_does_not_know_is_refused(tmp_path):
    path = written(tmp_path, "gemma3", "gemma3", {"attn_logit_softcapping": (F32, 50.0)})
    with pytest.raises(CheckpointUnsupported, match=r"gemma3\.attn_logit_softcapping"):
        open_checkpoint(path)
