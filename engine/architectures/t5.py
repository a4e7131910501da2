"""T5 1.0 and 1.1, Flan-T5, mT5, byT5: relative position biases, unscaled scores, RMS norms (arXiv:1910.10683)."""

from dataclasses import replace

import mlx.core as mx

from engine.attention.attend import AttentionOptions, attend, with_bias
from engine.attention.batch import Batch, Biases
from engine.attention.qkv import join_heads, split_heads
from engine.config import ConfigReader
from engine.layers.activations import activate
from engine.layers.encoder import Encoder
from engine.layers.linear import Embedding, Linear
from engine.layers.module import EncoderDecoder, Module
from engine.layers.norm import RMSNorm
from engine.layers.position import positions, relative_buckets

_ENCODER_PARTS = (
    (".layer.0.SelfAttention.", ".attention."),
    (".layer.0.layer_norm.", ".attention_norm."),
    (".layer.1.DenseReluDense.", ".mlp."),
    (".layer.1.layer_norm.", ".mlp_norm."),
)
_DECODER_PARTS = (
    *_ENCODER_PARTS[:2],
    (".layer.1.EncDecAttention.", ".source."),
    (".layer.1.layer_norm.", ".source_norm."),
    (".layer.2.DenseReluDense.", ".mlp."),
    (".layer.2.layer_norm.", ".mlp_norm."),
)
_UNSCALED = AttentionOptions(1.0)
_KINDS = {"relu": "relu", "gated-gelu": "gelu_new", "gated-silu": "silu"}


class Attention(Module):
    """Projections without biases; a stack's first attention holds the biases of all its layers."""

    def __init__(self, config: ConfigReader, *, biased: bool = False) -> None:
        hidden_size, self._num_heads = config.count("d_model"), config.count("num_heads")
        inner_size = self._num_heads * config.count("d_kv")
        self.q = Linear(hidden_size, inner_size)
        self.k = Linear(hidden_size, inner_size)
        self.v = Linear(hidden_size, inner_size)
        self.o = Linear(inner_size, hidden_size)
        if biased:
            self.relative_attention_bias = Embedding(
                config.count("relative_attention_num_buckets", 32), self._num_heads
            )

    def queries(self, x: mx.array) -> mx.array:
        """(rows, length, hidden_size) to (rows, num_heads, length, head_dim)."""
        return split_heads(self.q(x), self._num_heads)

    def keys_and_values(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """(rows, length, hidden_size) to twice (rows, num_heads, length, head_dim)."""
        return split_heads(self.k(x), self._num_heads), split_heads(self.v(x), self._num_heads)


class FeedForward(Module):
    """wo(act(wi(x))), or wo(act(wi_0(x)) * wi_1(x)) where it is gated."""

    def __init__(self, config: ConfigReader) -> None:
        hidden_size, inner_size = config.count("d_model"), config.count("d_ff")
        kind = config.choice("feed_forward_proj", _KINDS, "relu")
        self._gated = kind.startswith("gated-")
        self._activation = _KINDS[kind]
        if self._gated:
            self.wi_0 = Linear(hidden_size, inner_size)
            self.wi_1 = Linear(hidden_size, inner_size)
        else:
            self.wi = Linear(hidden_size, inner_size)
        self.wo = Linear(inner_size, hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        if self._gated:
            return self.wo(activate(self._native, self._activation, self.wi_0(x), self.wi_1(x)))
        return self.wo(activate(self._native, self._activation, self.wi(x)))


class Block(Module):
    """Pre-norm attention, on the decoder's side attention to the source, and feed-forward."""

    def __init__(self, config: ConfigReader, layer: int, *, decoder: bool) -> None:
        hidden_size, eps = config.count("d_model"), config.number("layer_norm_epsilon", 1e-6)
        self.attention = Attention(config, biased=layer == 0)
        self.attention_norm = RMSNorm(hidden_size, eps)
        if decoder:
            self.source = Attention(config)
            self.source_norm = RMSNorm(hidden_size, eps)
        self.mlp = FeedForward(config)
        self.mlp_norm = RMSNorm(hidden_size, eps)
        self._layer = layer

    def encode(self, x: mx.array, bias: mx.array) -> mx.array:
        """One encoder layer. bias: (1, num_heads, length, length)."""
        normed = self.attention_norm(x)
        keys, values = self.attention.keys_and_values(normed)
        options = replace(_UNSCALED, causal=False, mask=bias)
        attended = attend(self.attention.queries(normed), keys, values, options, self._native)
        x = x + self.attention.o(join_heads(attended))
        return x + self.mlp(self.mlp_norm(x))

    def decode(self, x: mx.array, batch: Batch, biases: Biases) -> mx.array:
        """One decoder layer. biases: per row (1, num_heads, length, context)."""
        normed = self.attention_norm(x)
        queries, (keys, values) = self.attention.queries(normed), self.attention.keys_and_values(normed)
        x = x + self.attention.o(join_heads(batch.attend(self._layer, queries, keys, values, _UNSCALED, biases=biases)))
        queries = self.source.queries(self.source_norm(x))
        x = x + self.source.o(join_heads(batch.attend_source(self._layer, queries, _UNSCALED.scale)))
        return x + self.mlp(self.mlp_norm(x))


class Stack(Module):
    """Blocks, the relative position biases they share, and a final norm."""

    def __init__(self, config: ConfigReader, num_layers: int, *, decoder: bool) -> None:
        self.block = [Block(config, layer, decoder=decoder) for layer in range(num_layers)]
        self.final_layer_norm = RMSNorm(config.count("d_model"), config.number("layer_norm_epsilon", 1e-6))
        self._num_buckets = config.count("relative_attention_num_buckets", 32)
        self._max_distance = config.count("relative_attention_max_distance", 128)
        self._bidirectional = not decoder

    def bias(self, offsets: int | mx.array, length: int, context: int) -> mx.array:
        """Biases between `length` queries from position `offsets` on, one or one per row, and keys 0 to context - 1.

        Returns (1 or rows, num_heads, length, context).
        """
        queries = positions(offsets, length).reshape(-1, length)
        distance = mx.arange(context)[None, None] - queries[..., None]
        buckets = relative_buckets(distance, self._num_buckets, self._max_distance, bidirectional=self._bidirectional)
        return self.block[0].attention.relative_attention_bias(buckets).transpose(0, 3, 1, 2)


class Model(EncoderDecoder):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        vocab_size, hidden_size = config.count("vocab_size"), config.count("d_model")
        num_layers = config.count("num_layers")
        self.shared = Embedding(vocab_size, hidden_size)
        self.encoder = Stack(config, num_layers, decoder=False)
        self.decoder = Stack(config, config.count("num_decoder_layers", num_layers), decoder=True)
        # T5 1.0 scales what goes into its tied head; the configurations of 1.1 call themselves untied; mT5 never does.
        tied = config.flag("tie_word_embeddings", default=True)
        original = config.choice("model_type", ("t5", "mt5")) == "t5"
        scaled = config.flag("scale_decoder_outputs", default=tied and original)
        self._scale = hidden_size**-0.5 if scaled else 1.0
        self._tied = not config.stores("lm_head.weight")
        if not self._tied:
            self.lm_head = Linear(hidden_size, vocab_size)

    @property
    def windows(self) -> list[int | None]:
        """Every layer sees everything."""
        return [None] * len(self.decoder.block)

    def encode(self, ids: mx.array) -> list[tuple[mx.array, mx.array]]:
        """Keys and values of the source for every decoder layer. ids: (1, length)."""
        x = self.shared(ids)
        bias = self.encoder.bias(0, ids.shape[1], ids.shape[1])
        for block in self.encoder.block:
            x = block.encode(x, bias)
        x = self.encoder.final_layer_norm(x)
        return [block.source.keys_and_values(x) for block in self.decoder.block]

    def __call__(self, ids: mx.array, batch: Batch) -> mx.array:
        """ids: (rows, length) integers; returns (rows, length, hidden_size)."""
        x, length = self.shared(ids), ids.shape[1]
        biases = batch.biases(self.decoder.bias, length)
        for block in self.decoder.block:
            x = block.decode(x, batch, biases)
        return self.decoder.final_layer_norm(x)

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., hidden_size) to (..., vocab_size)."""
        hidden = hidden * self._scale
        return self.shared.multiply(hidden) if self._tied else self.lm_head(hidden)

    def rename(self, name: str) -> str | None:
        """The checkpoint numbers a block's parts, and repeats the table of token vectors on both sides."""
        if name.endswith(".embed_tokens.weight"):
            return None
        for theirs, ours in _DECODER_PARTS if name.startswith("decoder.") else _ENCODER_PARTS:
            if theirs in name:
                return name.replace(theirs, ours)
        return name


class EncoderModel(Encoder):
    """The encoder by itself, as embedders have it."""

    def __init__(self, config: ConfigReader) -> None:
        self.hidden_size = config.count("d_model")
        self.max_length = config.count("n_positions", 2048)  # positions are relative: they have no end of their own
        self.shared = Embedding(config.count("vocab_size"), self.hidden_size)
        self.encoder = Stack(config, config.count("num_layers"), decoder=False)

    def __call__(self, ids: mx.array, mask: mx.array, types: mx.array) -> mx.array:
        """See Encoder; there are no kinds of text."""
        x, length = self.shared(ids), ids.shape[1]
        bias = with_bias(mask[:, None, None], self.encoder.bias(0, length, length))
        for block in self.encoder.block:
            x = block.encode(x, bias)
        return self.encoder.final_layer_norm(x)

    def rename(self, name: str) -> str | None:
        """The names of the whole model's encoder."""
        if name == "encoder.embed_tokens.weight":
            return None
        for theirs, ours in _ENCODER_PARTS:
            name = name.replace(theirs, ours)
        return name
