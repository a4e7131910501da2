"""Encoder and decoder stacks of the BART family, pre- or post-norm (Vaswani et al. 2017, arXiv:1706.03762)."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from engine.attention.attend import AttentionOptions, attend
from engine.attention.batch import Batch
from engine.attention.qkv import join_heads, split_heads
from engine.config import head_size
from engine.layers.activations import activate
from engine.layers.linear import Embedding, Linear
from engine.layers.module import EncoderDecoder, Module
from engine.layers.norm import LayerNorm
from engine.layers.position import positions

CrossKeys = list[tuple[mx.array, mx.array]]


@dataclass(frozen=True, slots=True)
class StackSpec:
    """The sizes and norms of one stack, encoder or decoder.

    pre_norm: norms stand before attention and MLP instead of after
    embedding_norm, final_norm: a norm after the embeddings, and one after the last layer
    learned_positions: rows of the position table, with `position_offset` unused ones in front; 0 is sinusoidal
    slowest_included: of sinusoidal positions: the last frequency is 1/10000 (fairseq), not the one before it
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    inner_size: int
    activation: str
    embedding_scale: float
    pre_norm: bool
    embedding_norm: bool
    final_norm: bool
    learned_positions: int
    position_offset: int = 0
    slowest_included: bool = False


class Attention(Module):
    """Projections of one attention; who attends to whom is the caller's."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        self.q_proj = Linear(hidden_size, hidden_size, bias=True)
        self.k_proj = Linear(hidden_size, hidden_size, bias=True)
        self.v_proj = Linear(hidden_size, hidden_size, bias=True)
        self.out_proj = Linear(hidden_size, hidden_size, bias=True)
        self._num_heads = num_heads
        self.scale = head_size(hidden_size, num_heads) ** -0.5

    def queries(self, x: mx.array) -> mx.array:
        """(rows, length, hidden_size) to (rows, num_heads, length, head_dim)."""
        return split_heads(self.q_proj(x), self._num_heads)

    def keys_and_values(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """(rows, length, hidden_size) to twice (rows, num_heads, length, head_dim)."""
        return split_heads(self.k_proj(x), self._num_heads), split_heads(self.v_proj(x), self._num_heads)

    def output(self, attended: mx.array) -> mx.array:
        """(rows, num_heads, length, head_dim) to (rows, length, hidden_size)."""
        return self.out_proj(join_heads(attended))


class Layer(Module):
    """The parts that encoder and decoder layers share: residual steps around a norm, and the MLP."""

    def __init__(self, spec: StackSpec) -> None:
        self.self_attn = Attention(spec.hidden_size, spec.num_heads)
        self.self_attn_layer_norm = LayerNorm(spec.hidden_size, 1e-5)
        self.fc1 = Linear(spec.hidden_size, spec.inner_size, bias=True)
        self.fc2 = Linear(spec.inner_size, spec.hidden_size, bias=True)
        self.final_layer_norm = LayerNorm(spec.hidden_size, 1e-5)
        self._activation = spec.activation
        self._pre_norm = spec.pre_norm

    def _residual(self, x: mx.array, norm: LayerNorm, step: Callable[[mx.array], mx.array]) -> mx.array:
        return x + step(norm(x)) if self._pre_norm else norm(x + step(x))

    def _mlp(self, x: mx.array) -> mx.array:
        return self.fc2(activate(self._native, self._activation, self.fc1(x)))


class EncoderLayer(Layer):
    """Bidirectional attention and an MLP."""

    def __call__(self, x: mx.array) -> mx.array:
        x = self._residual(x, self.self_attn_layer_norm, self._attend)
        return self._residual(x, self.final_layer_norm, self._mlp)

    def _attend(self, x: mx.array) -> mx.array:
        own = self.self_attn
        options = AttentionOptions(own.scale, causal=False)
        return own.output(attend(own.queries(x), *own.keys_and_values(x), options, self._native))


class DecoderLayer(Layer):
    """Causal attention, attention to the encoder's output, and an MLP."""

    def __init__(self, spec: StackSpec, layer: int) -> None:
        super().__init__(spec)
        self.encoder_attn = Attention(spec.hidden_size, spec.num_heads)
        self.encoder_attn_layer_norm = LayerNorm(spec.hidden_size, 1e-5)
        self._layer = layer

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = self._residual(x, self.self_attn_layer_norm, lambda y: self._attend(y, batch))
        x = self._residual(x, self.encoder_attn_layer_norm, lambda y: self._attend_source(y, batch))
        return self._residual(x, self.final_layer_norm, self._mlp)

    def _attend(self, x: mx.array, batch: Batch) -> mx.array:
        own = self.self_attn
        options = AttentionOptions(own.scale)
        return own.output(batch.attend(self._layer, own.queries(x), *own.keys_and_values(x), options))

    def _attend_source(self, x: mx.array, batch: Batch) -> mx.array:
        source = self.encoder_attn
        return source.output(batch.attend_source(self._layer, source.queries(x), source.scale))


class Stack(Module):
    """Position table, layers and norms of one side; token vectors come from outside."""

    def __init__(self, spec: StackSpec, layers: list[EncoderLayer] | list[DecoderLayer]) -> None:
        if spec.learned_positions:
            self.embed_positions = Embedding(spec.learned_positions + spec.position_offset, spec.hidden_size)
        if spec.embedding_norm:
            self.layernorm_embedding = LayerNorm(spec.hidden_size, 1e-5)
        self.layers = layers
        if spec.final_norm:
            self.layer_norm = LayerNorm(spec.hidden_size, 1e-5)
        self._spec = spec

    def embed(self, vectors: mx.array, numbers: mx.array) -> mx.array:
        """Token vectors (rows, length, hidden_size) with their positions, numbers (length,) or (rows, length)."""
        spec = self._spec
        if spec.learned_positions:
            table = self.embed_positions(numbers + spec.position_offset)
        else:
            steps = spec.hidden_size // 2 - 1 if spec.slowest_included else spec.hidden_size / 2
            table = sinusoids(numbers + spec.position_offset, spec.hidden_size, steps)
        x = vectors * spec.embedding_scale + table
        return self.layernorm_embedding(x) if spec.embedding_norm else x

    def normed(self, x: mx.array) -> mx.array:
        """The last layer's output, through the final norm where there is one."""
        return self.layer_norm(x) if self._spec.final_norm else x


class Pair(Module):
    """An encoder and a decoder over one table of token vectors."""

    def __init__(self, vocab_size: int, encoder: StackSpec, decoder: StackSpec) -> None:
        self.shared = Embedding(vocab_size, encoder.hidden_size)
        self._encoder_layers = [EncoderLayer(encoder) for _ in range(encoder.num_layers)]
        self._decoder_layers = [DecoderLayer(decoder, layer) for layer in range(decoder.num_layers)]
        self.encoder = Stack(encoder, self._encoder_layers)
        self.decoder = Stack(decoder, self._decoder_layers)

    def encode(self, ids: mx.array) -> CrossKeys:
        """Keys and values of the source for every decoder layer. ids: (1, length)."""
        x = self.encoder.embed(self.shared(ids), positions(0, ids.shape[1]))
        for layer in self._encoder_layers:
            x = layer(x)
        x = self.encoder.normed(x)
        return [layer.encoder_attn.keys_and_values(x) for layer in self._decoder_layers]

    def decode(self, ids: mx.array, batch: Batch) -> mx.array:
        """ids: (rows, length); returns (rows, length, hidden_size)."""
        x = self.decoder.embed(self.shared(ids), positions(batch.offsets, ids.shape[1]))
        for layer in self._decoder_layers:
            x = layer(x, batch)
        return self.decoder.normed(x)


class EncoderDecoderLM(EncoderDecoder):
    """A conditional language model: source ids to keys and values, target ids to hidden states, these to logits."""

    def __init__(self, vocab_size: int, encoder: StackSpec, decoder: StackSpec) -> None:
        self.model = Pair(vocab_size, encoder, decoder)
        self.final_logits_bias = mx.zeros((1, vocab_size))
        self._num_layers = decoder.num_layers
        self._computed_positions = [
            f"model.{side}.embed_positions."
            for side, spec in (("encoder", encoder), ("decoder", decoder))
            if not spec.learned_positions
        ]

    @property
    def windows(self) -> list[int | None]:
        """Every layer sees everything."""
        return [None] * self._num_layers

    def encode(self, ids: mx.array) -> CrossKeys:
        """Keys and values of the source for every decoder layer. ids: (1, length)."""
        return self.model.encode(ids)

    def __call__(self, ids: mx.array, batch: Batch) -> mx.array:
        """ids: (rows, length) integers; returns (rows, length, hidden_size)."""
        return self.model.decode(ids, batch)

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., hidden_size) to (..., vocab_size)."""
        return self.model.shared.multiply(hidden) + self.final_logits_bias[0]

    def rename(self, name: str) -> str | None:
        """Keep one table of token vectors, and no computed positions."""
        if name.startswith(("model.encoder.embed_tokens.", "model.decoder.embed_tokens.", "lm_head.")):
            return None
        return None if name.startswith(tuple(self._computed_positions)) else name

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """The logits' bias may be left out of the checkpoint; it is zero then."""
        found = False
        for name, array in super().convert(tensors):
            found |= name == "final_logits_bias"
            yield name, array
        if not found:
            yield "final_logits_bias", self.final_logits_bias


def sinusoids(numbers: mx.array, size: int, steps: float) -> mx.array:
    """Sines in the first half, cosines in the second. numbers: (...); returns (..., size).

    steps: from the frequency 1 to 1/10000
    """
    frequencies = mx.exp(mx.arange(size // 2) * (-math.log(10_000.0) / steps))
    angles = numbers[..., None].astype(mx.float32) * frequencies
    return mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=-1)
