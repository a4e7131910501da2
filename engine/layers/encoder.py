"""Bidirectional encoders: attention over whole texts, padded to one length. Post-norm stacks of the BERT family."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from engine.attention.attend import AttentionOptions, attend
from engine.attention.qkv import join_heads, split_heads
from engine.config import head_size
from engine.layers.activations import ACTIVATIONS
from engine.layers.linear import Embedding, Linear
from engine.layers.mlp import MLP
from engine.layers.module import Architecture, Module
from engine.layers.norm import LayerNorm
from engine.layers.position import positions


class Encoder(Architecture):
    """Base of architectures that read a whole text and write none.

    max_length: tokens of the longest text; hidden_size: of a token's vector
    num_labels: outputs of the classifier on top; 0 without one
    num_types: kinds of text that tokens may be marked with
    """

    max_length: int
    hidden_size: int
    num_labels: int = 0
    num_types: int = 0

    def __call__(self, ids: mx.array, mask: mx.array, types: mx.array) -> mx.array:
        """Vectors of all tokens.

        ids, types: (batch, length) integers; mask: (batch, length) bool, False at padding
        Returns (batch, length, hidden_size).
        """
        raise NotImplementedError

    def scores(self, hidden: mx.array, mask: mx.array) -> mx.array:
        """The classifier's outputs, not normalised: (batch, length, hidden_size) to (batch, num_labels)."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Sizes of a post-norm encoder.

    position_offset: number of the first token's position
    num_types: kinds of text that tokens are marked with; 0 marks none
    classifier: activation between the classifier's two layers; None without a classifier
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    inner_size: int
    activation: str
    eps: float
    num_positions: int
    position_offset: int = 0
    num_types: int = 0
    classifier: str | None = None
    num_labels: int = 0


class EncoderAttention(Module):
    """Every token attends to every other."""

    def __init__(self, hidden_size: int, num_heads: int, *, bias: bool = True) -> None:
        self.q_proj = Linear(hidden_size, hidden_size, bias=bias)
        self.k_proj = Linear(hidden_size, hidden_size, bias=bias)
        self.v_proj = Linear(hidden_size, hidden_size, bias=bias)
        self.o_proj = Linear(hidden_size, hidden_size, bias=bias)
        self._num_heads = num_heads
        self._scale = head_size(hidden_size, num_heads) ** -0.5

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """x: (batch, length, hidden_size); mask: bool or additive, broadcast to (batch, num_heads, length, length)."""
        queries, keys, values = (
            split_heads(project(x), self._num_heads) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        options = AttentionOptions(self._scale, causal=False, mask=mask)
        return self.o_proj(join_heads(attend(queries, keys, values, options, self._native)))


class PostNormLayer(Module):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.attention = EncoderAttention(spec.hidden_size, spec.num_heads)
        self.attention_norm = LayerNorm(spec.hidden_size, spec.eps)
        self.mlp = MLP(spec.hidden_size, spec.inner_size, spec.activation, names=("fc1", "fc2"))
        self.mlp_norm = LayerNorm(spec.hidden_size, spec.eps)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        x = self.attention_norm(x + self.attention(x, mask))
        return self.mlp_norm(x + self.mlp(x))


class Classifier(Module):
    """Two layers over one vector per text."""

    def __init__(self, hidden_size: int, num_labels: int, activation: str) -> None:
        self.dense = Linear(hidden_size, hidden_size, bias=True)
        self.out = Linear(hidden_size, num_labels, bias=True)
        self._activation = ACTIVATIONS[activation]

    def __call__(self, x: mx.array) -> mx.array:
        return self.out(self._activation(self.dense(x)))


class PostNormEncoder(Encoder):
    """Embeddings of word, place and kind of text, a norm, and post-norm layers (Devlin et al. 2018, arXiv:1810.04805).

    renames: pieces of the checkpoint's names to ours, in order; dropped: beginnings of names that are not needed
    """

    renames: Sequence[tuple[str, str]] = ()
    dropped: Sequence[str] = ()

    def __init__(self, spec: EncoderSpec) -> None:
        self.words = Embedding(spec.vocab_size, spec.hidden_size)
        self.places = Embedding(spec.num_positions, spec.hidden_size)
        if spec.num_types:
            self.types = Embedding(spec.num_types, spec.hidden_size)
        self.embedding_norm = LayerNorm(spec.hidden_size, spec.eps)
        self.layers = [PostNormLayer(spec) for _ in range(spec.num_layers)]
        if spec.classifier is not None:
            self.head = Classifier(spec.hidden_size, spec.num_labels, spec.classifier)
        self._spec = spec
        self.max_length = spec.num_positions - spec.position_offset
        self.hidden_size = spec.hidden_size
        self.num_labels = spec.num_labels if spec.classifier else 0
        self.num_types = spec.num_types

    def __call__(self, ids: mx.array, mask: mx.array, types: mx.array) -> mx.array:
        """See Encoder."""
        x = self.words(ids) + self.places(positions(self._spec.position_offset, ids.shape[1]))
        if self._spec.num_types:
            x = x + self.types(types)
        x = self.embedding_norm(x)
        attention_mask = self.attention_mask(mask)
        for layer in self.layers:
            x = layer(x, attention_mask)
        return x

    def attention_mask(self, mask: mx.array) -> mx.array:
        """The keys that every token sees: all that are no padding. (batch, length) to (batch, 1, 1, length)."""
        return mask[:, None, None]

    def scores(self, hidden: mx.array, mask: mx.array) -> mx.array:
        """From the first token's vector."""
        return self.head(hidden[:, 0])

    def rename(self, name: str) -> str | None:
        """By the family's table; norms of old checkpoints call their arrays gamma and beta."""
        if name.endswith("position_ids") or name.startswith(tuple(self.dropped)):
            return None
        for theirs, ours in self.renames:
            name = name.replace(theirs, ours)
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
        return None if name.startswith("head.") and not self.num_labels else name
