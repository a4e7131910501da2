"""GPT-BigCode, SantaCoder, StarCoder: GPT-2 with one key head for all queries (arXiv:2305.06161)."""

import mlx.core as mx

from engine.attention.attend import AttentionOptions
from engine.attention.batch import Batch
from engine.attention.qkv import join_heads, split_heads
from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes
from engine.layers.linear import Embedding, Linear
from engine.layers.mlp import MLP
from engine.layers.module import Architecture, Module
from engine.layers.norm import LayerNorm
from engine.layers.position import positions


class Attention(Module):
    """One projection: all queries, then the key and the value; with a key per head these three of each head."""

    def __init__(self, layer: int, sizes: HeadSizes) -> None:
        kv_size = sizes.num_kv_heads * sizes.head_dim
        self.c_attn = Linear(sizes.hidden_size, sizes.hidden_size + 2 * kv_size, bias=True)
        self.c_proj = Linear(sizes.hidden_size, sizes.hidden_size, bias=True)
        self._layer = layer
        self._sizes = sizes
        self._options = AttentionOptions(sizes.score_scale)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        sizes, joint = self._sizes, self.c_attn(x)
        if sizes.num_kv_heads == 1:
            heads = split_heads(joint, sizes.num_heads + 2)
            queries, keys, values = mx.split(heads, [sizes.num_heads, sizes.num_heads + 1], axis=1)
        else:
            queries, keys, values = mx.split(split_heads(joint, sizes.num_heads), 3, axis=-1)
        return self.c_proj(join_heads(batch.attend(self._layer, queries, keys, values, self._options)))


class Block(Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ConfigReader, layer: int, sizes: HeadSizes) -> None:
        eps = config.number("layer_norm_epsilon", 1e-5)
        inner_size = config.count("n_inner", 4 * sizes.hidden_size)
        activation = config.choice("activation_function", ACTIVATIONS, "gelu_pytorch_tanh")
        self.ln_1 = LayerNorm(sizes.hidden_size, eps)
        self.attn = Attention(layer, sizes)
        self.ln_2 = LayerNorm(sizes.hidden_size, eps)
        self.mlp = MLP(sizes.hidden_size, inner_size, activation, names=("c_fc", "c_proj"))

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = x + self.attn(self.ln_1(x), batch)
        return x + self.mlp(self.ln_2(x))


class Model(Architecture):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.require("add_cross_attention", False)
        hidden_size, num_heads = config.count("n_embd", 768), config.count("n_head", 12)
        num_kv_heads = 1 if config.flag("multi_query", default=True) else num_heads
        scale = None if config.flag("scale_attn_weights", default=True) else 1.0
        sizes = HeadSizes(hidden_size, num_heads, num_kv_heads, hidden_size // num_heads, scale)
        self.wte = Embedding(config.count("vocab_size"), hidden_size)
        self.wpe = Embedding(config.count("n_positions", 1024), hidden_size)
        self.h = [Block(config, layer, sizes) for layer in range(config.count("n_layer", 12))]
        self.ln_f = LayerNorm(hidden_size, config.number("layer_norm_epsilon", 1e-5))
        self._tied = config.flag("tie_word_embeddings", default=True)
        if not self._tied:
            self.lm_head = Linear(hidden_size, config.count("vocab_size"))

    @property
    def windows(self) -> list[int | None]:
        """Every layer sees everything."""
        return [None] * len(self.h)

    def __call__(self, ids: mx.array, batch: Batch) -> mx.array:
        """ids: (rows, length) integers; returns (rows, length, hidden_size)."""
        x = self.wte(ids) + self.wpe(positions(batch.offsets, ids.shape[1]))
        for block in self.h:
            x = block(x, batch)
        return self.ln_f(x)

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., hidden_size) to (..., vocab_size)."""
        return self.wte.multiply(hidden) if self._tied else self.lm_head(hidden)

    def rename(self, name: str) -> str | None:
        """Drop the prefix and the stored masks."""
        return None if name.endswith((".attn.bias", ".attn.masked_bias")) else name.removeprefix("transformer.")
