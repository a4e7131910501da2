"""Hunyuan, dense: Llama-shaped; queries and keys are normed behind the rotation, whose base is stretched once."""

from dataclasses import replace

import mlx.core as mx

from engine.attention.batch import Batch
from engine.attention.qkv import join_heads, split_heads
from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.linear import Norm
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope
from engine.rope_spec import RopeSpec


class Attention(SelfAttention):
    """Self-attention with norms of queries and keys behind the rotation."""

    def __init__(self, layer: int, sizes: HeadSizes, rope: Rope, eps: float, *, bias: bool) -> None:
        super().__init__(layer, sizes, rope, bias=bias, output_bias=bias)
        self.query_layernorm = RMSNorm(sizes.head_dim, eps)
        self.key_layernorm = RMSNorm(sizes.head_dim, eps)
        self._rotated_by = rope

    def attended(self, x: mx.array, batch: Batch, norm: Norm | None = None) -> mx.array:
        """The heads' results for norm(x), side by side: (rows, length, num_heads * head_dim)."""
        sizes, (queries, keys, values) = self._sizes, self.heads(x, norm)
        queries, keys, values = (
            split_heads(queries, sizes.num_heads),
            split_heads(keys, sizes.num_kv_heads),
            split_heads(values, sizes.num_kv_heads),
        )
        queries = self.query_layernorm(self._rotated_by(queries, batch.offsets, batch.planned_lengths))
        keys = self.key_layernorm(self._rotated_by(keys, batch.offsets, batch.planned_lengths))
        return join_heads(batch.attend(self._layer, queries, keys, values, self.options))


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        rope = Rope(_rope(config, sizes.head_dim))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
        )


def _rope(config: ConfigReader, head_dim: int) -> RopeSpec:
    """Called "dynamic" in the files, but with a fixed alpha it does not depend on the length."""
    spec, alpha = config.rope(head_dim), config.rope_extra("alpha")
    if not alpha or spec.kind != "dynamic":
        return spec
    return replace(spec, kind="default", base=spec.base * alpha ** (spec.dims / (spec.dims - 2)))


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    bias = config.flag("attention_bias", default=False)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    eps = config.number("rms_norm_eps", 1e-5)
    return PreNormBlock(
        Attention(layer, sizes, rope, eps, bias=bias),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
