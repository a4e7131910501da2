"""Settings of the Gemma families that ask for another computation: each is refused by its name."""

from dataclasses import replace
from pathlib import Path

import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.errors import CheckpointUnsupported
from engine.model import outline

FIXTURES = Path(__file__).parent / "fixtures"
REFUSED = [
    ("gemma3", "use_bidirectional_attention", True),
    ("gemma3n-text", "activation_sparsity_pattern", [1.0] * 6),
    ("gemma3n-text", "activation_sparsity_pattern", [0.5]),
    ("gemma3n-text", "altup_active_idx", 3),
    ("gemma3n-text", "intermediate_size", [24, 24]),
    ("gemma3n-text", "num_kv_shared_layers", 5),
    ("gemma3n-text", "attn_logit_softcapping", 30.0),
    ("gemma3n-text", "query_pre_attn_scalar", 64),
    ("gemma4-text", "use_bidirectional_attention", "all"),
    ("gemma4-text", "per_layer_config", {"2": {"head_dim": 32}}),
    ("gemma4-text", "num_kv_shared_layers", 6),
    ("gemma4-text", "num_kv_shared_layers", -1),
    ("gemma4-text", "attn_logit_softcapping", 30.0),
    ("gemma4-text", "hidden_activation", "step"),
    ("llama", "num_kv_shared_layers", 2),
    ("llama", "altup_num_inputs", 4),
    ("llama", "hidden_size_per_layer_input", 8),
    ("llama", "enable_moe_block", True),
]


@pytest.mark.parametrize(("name", "key", "value"), REFUSED)
def test_a_setting_that_is_not_computed_is_refused(name, key, value):
    checkpoint = open_checkpoint(FIXTURES / name)
    with pytest.raises(CheckpointUnsupported, match=key):
        outline(replace(checkpoint, config=checkpoint.config | {key: value}))
