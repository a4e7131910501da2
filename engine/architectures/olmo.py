"""OLMo 1: Llama-shaped, with norms that have no weights, and clipped queries, keys and values (arXiv:2402.00838)."""

import mlx.core as mx

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.linear import Norm
from engine.layers.mlp import GatedMLP
from engine.layers.norm import PlainLayerNorm
from engine.layers.post_norm import clipped
from engine.layers.rope import Rope


class Attention(SelfAttention):
    """Self-attention whose queries, keys and values lie within a limit; None for none."""

    def __init__(self, layer: int, sizes: HeadSizes, rope: Rope, limit: float | None, *, bias: bool) -> None:
        super().__init__(layer, sizes, rope, bias=bias, output_bias=bias)
        self._limit = limit

    def heads(self, x: mx.array, norm: Norm | None) -> tuple[mx.array, mx.array, mx.array]:
        """Queries (rows, length, num_heads * head_dim), keys and values (..., num_kv_heads * head_dim), not rotated."""
        queries, keys, values = super().heads(x, norm)
        return clipped(queries, self._limit), clipped(keys, self._limit), clipped(values, self._limit)


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        rope = Rope(config.rope(sizes.head_dim))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            PlainLayerNorm(1e-5),
            tied=config.flag("tie_word_embeddings", default=False),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    bias, limit = config.flag("attention_bias", default=False), config.optional_number("clip_qkv")
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    return PreNormBlock(
        Attention(layer, sizes, rope, limit, bias=bias),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation),
        PlainLayerNorm(1e-5),
        PlainLayerNorm(1e-5),
    )
