"""GPT-NeoX and Pythia: attention and MLP side by side, queries, keys and values fused per head (arXiv:2204.06745)."""

import mlx.core as mx

from engine.attention.attend import AttentionOptions
from engine.attention.batch import Batch
from engine.attention.qkv import join_heads
from engine.config import ConfigReader
from engine.errors import CheckpointUnsupported
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes
from engine.layers.linear import Embedding, Linear
from engine.layers.mlp import MLP
from engine.layers.module import Architecture, Module
from engine.layers.norm import LayerNorm
from engine.layers.rope import Rope


class Attention(Module):
    """Attention whose fused projection holds query, key and value of the first head, then of the second, and so on."""

    def __init__(self, layer: int, sizes: HeadSizes, rope: Rope, *, bias: bool) -> None:
        self.query_key_value = Linear(sizes.hidden_size, 3 * sizes.hidden_size, bias=bias)
        self.dense = Linear(sizes.hidden_size, sizes.hidden_size, bias=bias)
        self._layer = layer
        self._num_heads = sizes.num_heads
        self._rope = rope
        self._options = AttentionOptions(sizes.head_dim**-0.5)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        num_rows, length, _ = x.shape
        fused = self.query_key_value(x).reshape(num_rows, length, self._num_heads, -1).transpose(0, 2, 1, 3)
        queries, keys, values = mx.split(fused, 3, axis=-1)
        queries = self._rope(queries, batch.offsets, batch.planned_lengths)
        keys = self._rope(keys, batch.offsets, batch.planned_lengths)
        return self.dense(join_heads(batch.attend(self._layer, queries, keys, values, self._options)))


class Block(Module):
    """x + attention(norm(x)) + mlp(norm(x)); one after the other where use_parallel_residual is off."""

    def __init__(self, config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> None:
        eps = config.number("layer_norm_eps", 1e-5)
        activation = config.choice("hidden_act", ACTIVATIONS, "gelu")
        names = ("dense_h_to_4h", "dense_4h_to_h")
        self.input_layernorm = LayerNorm(sizes.hidden_size, eps)
        self.post_attention_layernorm = LayerNorm(sizes.hidden_size, eps)
        self.attention = Attention(layer, sizes, rope, bias=config.flag("attention_bias", default=True))
        self.mlp = MLP(sizes.hidden_size, config.count("intermediate_size"), activation, names=names)
        self._parallel = config.flag("use_parallel_residual", default=True)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        attended = x + self.attention(self.input_layernorm(x), batch)
        return attended + self.mlp(self.post_attention_layernorm(x if self._parallel else attended))


class Model(Architecture):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        if sizes.num_heads * sizes.head_dim != sizes.hidden_size:
            raise CheckpointUnsupported("head_dim", sizes.head_dim, "hidden_size / num_attention_heads")
        rope = Rope(config.rope(sizes.head_dim, default_part=0.25, names=("rotary_emb_base", "rotary_pct")))
        self.embed_in = Embedding(config.count("vocab_size"), sizes.hidden_size)
        self.layers = [Block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))]
        self.final_layer_norm = LayerNorm(sizes.hidden_size, config.number("layer_norm_eps", 1e-5))
        self._tied = config.flag("tie_word_embeddings", default=False)
        if not self._tied:
            self.embed_out = Linear(sizes.hidden_size, config.count("vocab_size"))

    @property
    def windows(self) -> list[int | None]:
        """Every layer sees everything."""
        return [None] * len(self.layers)

    def __call__(self, ids: mx.array, batch: Batch) -> mx.array:
        """ids: (rows, length) integers; returns (rows, length, hidden_size)."""
        x = self.embed_in(ids)
        for layer in self.layers:
            x = layer(x, batch)
        return self.final_layer_norm(x)

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., hidden_size) to (..., vocab_size)."""
        return self.embed_in.multiply(hidden) if self._tied else self.embed_out(hidden)

    def rename(self, name: str) -> str | None:
        """Drop the prefix and the stored masks. MLX folders have another prefix and call the layers h."""
        if name.endswith((".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")):
            return None
        own = name.removeprefix("gpt_neox.").removeprefix("model.")
        return f"layers.{own[2:]}" if own.startswith("h.") else own
