"""Nomic BERT (arXiv:2402.01613): post-norm BERT with rotary positions and gated MLPs."""

import mlx.core as mx

from engine.attention.attend import AttentionOptions, attend
from engine.attention.qkv import join_heads, split_heads
from engine.config import ConfigReader, head_size
from engine.layers.activations import ACTIVATIONS
from engine.layers.encoder import Encoder
from engine.layers.linear import Embedding, Linear
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module
from engine.layers.norm import LayerNorm
from engine.layers.rope import Rope


class Attention(Module):
    """Bidirectional attention with rotated queries and keys."""

    def __init__(self, config: ConfigReader, rope: Rope) -> None:
        hidden_size, self._num_heads = config.count("hidden_size"), config.count("num_attention_heads")
        self.qkv_proj = Linear(hidden_size, 3 * hidden_size)
        self.o_proj = Linear(hidden_size, hidden_size)
        self._rope = rope
        self._scale = head_size(hidden_size, self._num_heads) ** -0.5

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        fused = mx.split(self.qkv_proj(x), 3, axis=-1)
        queries, keys, values = (split_heads(each, self._num_heads) for each in fused)
        length = [x.shape[1]] * x.shape[0]
        queries, keys = self._rope(queries, 0, length), self._rope(keys, 0, length)
        options = AttentionOptions(self._scale, causal=False, mask=mask)
        return self.o_proj(join_heads(attend(queries, keys, values, options, self._native)))


class Block(Module):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, config: ConfigReader, rope: Rope) -> None:
        hidden_size, eps = config.count("hidden_size"), config.number("layer_norm_eps", 1e-12)
        self.self_attn = Attention(config, rope)
        self.post_attention_layernorm = LayerNorm(hidden_size, eps)
        activation = config.choice("hidden_act", ACTIVATIONS, "silu")
        self.mlp = GatedMLP(hidden_size, config.count("intermediate_size"), activation)
        self.post_mlp_layernorm = LayerNorm(hidden_size, eps)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        x = self.post_attention_layernorm(x + self.self_attn(x, mask))
        return self.post_mlp_layernorm(x + self.mlp(x))


class Model(Encoder):
    """The whole model."""

    renames = (
        ("embeddings.word_embeddings.", "words."),
        ("embeddings.token_type_embeddings.", "types."),
        ("emb_ln.", "embedding_norm."),
        ("encoder.layers.", "layers."),
        (".attn.Wqkv.", ".self_attn.qkv_proj."),
        (".attn.out_proj.", ".self_attn.o_proj."),
        (".norm1.", ".post_attention_layernorm."),
        (".norm2.", ".post_mlp_layernorm."),
        (".mlp.fc11.", ".mlp.up_proj."),
        (".mlp.fc12.", ".mlp.gate_proj."),
        (".mlp.fc2.", ".mlp.down_proj."),
    )

    def __init__(self, config: ConfigReader) -> None:
        self.hidden_size = config.count("hidden_size")
        self.max_length = config.count("max_position_embeddings", 2048)
        rope = Rope(config.rope(self.hidden_size // config.count("num_attention_heads"), 1000.0))
        self.words = Embedding(config.count("vocab_size"), self.hidden_size)
        self.num_types = config.count("type_vocab_size", 2)
        self.types = Embedding(self.num_types, self.hidden_size)
        self.embedding_norm = LayerNorm(self.hidden_size, config.number("layer_norm_eps", 1e-12))
        self.layers = [Block(config, rope) for _ in range(config.count("num_hidden_layers"))]

    def __call__(self, ids: mx.array, mask: mx.array, types: mx.array) -> mx.array:
        """See Encoder."""
        x = self.embedding_norm(self.words(ids) + self.types(types))
        for layer in self.layers:
            x = layer(x, mask[:, None, None])
        return x

    def rename(self, name: str) -> str | None:
        """Drop the prefix, the pooler and the head for masked words."""
        name = name.removeprefix("nomic_bert.")
        if name.startswith(("cls.", "pooler.")):
            return None
        for theirs, ours in self.renames:
            name = name.replace(theirs, ours)
        return name
