"""A setting that changes the mathematics and is not implemented refuses the model, and the refusal names it."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.errors import CheckpointUnsupported
from engine.model import outline

FIXTURES = Path(__file__).parent / "fixtures"
REFUSED: list[tuple[str, str, Any]] = [
    ("llama", "kv_lora_rank", 4),
    ("llama", "qkv_bias", True),
    ("llama", "shared_expert_intermediate_size", 8),
    ("llama", "rope_parameters", {"rope_type": "default", "llama_4_scaling_beta": 0.1}),
    ("llama", "rope_scaling", {"rope_type": "dynamic", "factor": 2.0, "alpha": 50.0}),
    ("deepseek-v3", "scoring_func", "softmax"),
    ("deepseek-v3", "topk_method", "greedy"),
    ("deepseek-v3", "moe_layer_freq", 2),
    ("deepseek-v3", "index_topk", 64),
    ("deepseek-v3", "rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
    ("deepseek-v3", "quantization_config", {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    ("deepseek-v2", "norm_topk_prob", True),
    ("deepseek-v2", "mlp_bias", True),
    ("glm4-moe", "scoring_func", "softmax"),
    ("minimax-m2", "attn_type_list", [0, 1]),
    ("minimax-m2", "use_qk_norm", False),
    ("minimax-m2", "shared_intermediate_size", 8),
    ("ernie4-5-moe", "moe_gate_act", "sigmoid"),
    ("cohere2-moe", "expert_selection_fn", "tanh"),
    ("phimoe", "num_experts_per_tok", 3),
    ("gpt-bigcode", "add_cross_attention", True),
    ("gemma", "use_bidirectional_attention", True),
    ("gemma", "hidden_activation", "relu"),
    ("apertus", "hidden_act", "silu"),
    ("bitnet", "hidden_act", "silu"),
    ("bitnet", "quantization_config", {"quant_method": "bitnet"}),
    ("seed-oss", "use_qk_norm", True),
    ("olmo3", "attention_chunk_size", 64),
    ("exaone4", "logit_scale", 2.0),
]


@pytest.mark.parametrize(("fixture", "key", "value"), REFUSED, ids=[f"{name}-{key}" for name, key, _ in REFUSED])
def test_a_setting_that_is_not_implemented_is_refused_by_name(fixture, key, value, tmp_path):
    config = json.loads((FIXTURES / fixture / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    (tmp_path / "model.safetensors").write_bytes((FIXTURES / fixture / "model.safetensors").read_bytes())
    named = "|".join([key, *value]) if isinstance(value, dict) else key
    with pytest.raises(CheckpointUnsupported, match=named):
        outline(open_checkpoint(tmp_path))
