"""Phi 3 and 4: Llama-shaped, with fused projections, long rotary scaling and a window (arXiv:2404.14219)."""

import mlx.core as mx

from engine.attention.attend import AttentionOptions
from engine.attention.batch import Batch
from engine.attention.qkv import join_heads, split_heads
from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.linear import Linear
from engine.layers.mlp import FusedMLP
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class Attention(Module):
    """Attention with one projection: all queries, then all keys, then all values."""

    def __init__(self, layer: int, sizes: HeadSizes, rope: Rope) -> None:
        num_fused_heads = sizes.num_heads + 2 * sizes.num_kv_heads
        self.qkv_proj = Linear(sizes.hidden_size, num_fused_heads * sizes.head_dim)
        self.o_proj = Linear(sizes.num_heads * sizes.head_dim, sizes.hidden_size)
        self._layer = layer
        self._sizes = sizes
        self._rope = rope
        self._options = AttentionOptions(sizes.head_dim**-0.5)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        sizes = self._sizes
        fused = split_heads(self.qkv_proj(x), sizes.num_heads + 2 * sizes.num_kv_heads)
        queries, keys, values = mx.split(fused, [sizes.num_heads, sizes.num_heads + sizes.num_kv_heads], axis=1)
        queries = self._rope(queries, batch.offsets, batch.planned_lengths)
        keys = self._rope(keys, batch.offsets, batch.planned_lengths)
        return self.o_proj(join_heads(batch.attend(self._layer, queries, keys, values, self._options)))


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        num_layers = config.count("num_hidden_layers")
        rope = Rope(config.rope(sizes.head_dim, default_part=1.0), recomputes=True)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(num_layers)],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=config.windows(num_layers),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    eps = config.number("rms_norm_eps", 1e-5)
    return PreNormBlock(
        Attention(layer, sizes, rope),
        FusedMLP(sizes.hidden_size, config.count("intermediate_size"), activation),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
