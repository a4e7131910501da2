"""GPT-2 and the plain learned-position, pre-norm decoder of the literature (Radford et al. 2019)."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.attention.attend import AttentionOptions
from engine.attention.batch import Batch
from engine.attention.qkv import join_heads, split_heads
from engine.config import ConfigReader, head_size
from engine.errors import CheckpointUnsupported
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes
from engine.layers.linear import Embedding, Linear
from engine.layers.mlp import MLP
from engine.layers.module import Architecture, Module
from engine.layers.norm import LayerNorm
from engine.layers.position import positions

_MLX_PREFIX = "model."
# Matrices that the checkpoint stores as (in, out).
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


class Attention(Module):
    """Attention with one projection to queries, keys and values."""

    def __init__(self, layer: int, sizes: HeadSizes) -> None:
        self.c_attn = Linear(sizes.hidden_size, 3 * sizes.hidden_size, bias=True)
        self.c_proj = Linear(sizes.hidden_size, sizes.hidden_size, bias=True)
        self._layer = layer
        self._num_heads = sizes.num_heads
        self._options = AttentionOptions(sizes.score_scale)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        queries, keys, values = (split_heads(each, self._num_heads) for each in mx.split(self.c_attn(x), 3, axis=-1))
        return self.c_proj(join_heads(batch.attend(self._layer, queries, keys, values, self._options)))


class Block(Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ConfigReader, layer: int, sizes: HeadSizes) -> None:
        eps = config.number("layer_norm_epsilon", 1e-5)
        inner_size = config.count("n_inner", 4 * sizes.hidden_size)
        activation = config.choice("activation_function", ACTIVATIONS, "gelu_new")
        self.ln_1 = LayerNorm(sizes.hidden_size, eps)
        self.attn = Attention(layer, sizes)
        self.ln_2 = LayerNorm(sizes.hidden_size, eps)
        self.mlp = MLP(sizes.hidden_size, inner_size, activation, names=("c_fc", "c_proj"))

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = x + self.attn(self.ln_1(x), batch)
        return x + self.mlp(self.ln_2(x))


class Model(Architecture):
    """The whole model; its head is the token table."""

    def __init__(self, config: ConfigReader) -> None:
        hidden_size, num_heads = config.count("n_embd", 768), config.count("n_head", 12)
        self.wte = Embedding(config.count("vocab_size"), hidden_size)
        self.wpe = Embedding(config.count("n_positions", 1024), hidden_size)
        self.h = [
            Block(config, layer, HeadSizes(hidden_size, num_heads, num_heads, head_size(hidden_size, num_heads), scale))
            for layer, scale in enumerate(_scales(config, head_size(hidden_size, num_heads)))
        ]
        self.ln_f = LayerNorm(hidden_size, config.number("layer_norm_epsilon", 1e-5))
        if not config.flag("tie_word_embeddings", default=True):
            raise CheckpointUnsupported("tie_word_embeddings", False, "true for model_type 'gpt2'")

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
        return self.wte.multiply(hidden)

    def rename(self, name: str) -> str | None:
        """Drop the prefix, which MLX folders call otherwise, and the stored masks."""
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            return None
        return name.removeprefix("transformer.").removeprefix(_MLX_PREFIX)

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Turn (in, out) matrices round; in MLX folders they have been turned."""
        for name, array in tensors:
            own = self.rename(name)
            if own is not None:
                yield own, array.T if own.endswith(_TRANSPOSED) and not name.startswith(_MLX_PREFIX) else array


def _scales(config: ConfigReader, head_dim: int) -> list[float]:
    scale = head_dim**-0.5 if config.flag("scale_attn_weights", default=True) else 1.0
    by_layer = config.flag("scale_attn_by_inverse_layer_idx", default=False)
    return [scale / (layer + 1) if by_layer else scale for layer in range(config.count("n_layer", 12))]
