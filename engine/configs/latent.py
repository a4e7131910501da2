"""Read what DeepSeek V2 and V3 and their kin have in common. Knows keys; knows no arrays."""

import math

from engine.config import ConfigReader
from engine.errors import CheckpointUnsupported
from engine.layers.latent_attention import LatentSizes
from engine.layers.latent_lm import LatentSpec
from engine.layers.rope import Rope
from engine.rope_spec import RopeSpec


def read_latent_spec(config: ConfigReader, num_experts: int, *, interleaved: bool, eps: float = 1e-6) -> LatentSpec:
    """The numbers of the whole model but for its feed-forward layers. Raises CheckpointUnsupported.

    interleaved: pair i of rotated dimensions is (2 i, 2 i + 1)
    eps: of the norms, where the configuration does not say
    """
    sizes, rope = _attention(config)
    return LatentSpec(
        config.count("vocab_size"),
        config.count("num_hidden_layers"),
        num_experts,
        sizes,
        Rope(rope, interleaved=interleaved),
        config.number("rms_norm_eps", eps),
        config.flag("attention_bias", default=False),
        config.flag("tie_word_embeddings", default=False),
    )


def _attention(config: ConfigReader) -> tuple[LatentSizes, RopeSpec]:
    content_dim, rope_dim = config.count("qk_nope_head_dim", 128), config.count("qk_rope_head_dim", 64)
    rope = config.rope(rope_dim)
    if rope.kind in ("dynamic", "longrope"):
        raise CheckpointUnsupported("rope_scaling.rope_type", rope.kind, "default, linear, yarn, llama3")
    sizes = LatentSizes(
        config.count("hidden_size"),
        config.count("num_attention_heads"),
        config.count("kv_lora_rank", 512),
        config.count("q_lora_rank") if config.has("q_lora_rank") else None,
        content_dim,
        rope_dim,
        config.count("v_head_dim", 128),
        (content_dim + rope_dim) ** -0.5 * _magnitude(rope),
    )
    return sizes, rope


def _magnitude(rope: RopeSpec) -> float:
    """YaRN's factor on the scores, on queries and keys each."""
    if rope.kind != "yarn" or not rope.mscale_all_dim or rope.factor <= 1:
        return 1.0
    return (0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1.0) ** 2
