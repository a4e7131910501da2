"""The frame that decoder-only models share: embedding, blocks, final norm, output head."""

from collections.abc import Callable, Sequence

import mlx.core as mx

from engine.attention.batch import Batch
from engine.cache.spec import CacheSpec
from engine.layers.linear import Embedding, Linear, add_branch
from engine.layers.module import Architecture, Module

Pointwise = Callable[[mx.array], mx.array]
Mixing = Callable[[mx.array, Batch], mx.array]


class PreNormBlock(Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, self_attn: Mixing, mlp: Pointwise, input_norm: Pointwise, post_norm: Pointwise) -> None:
        self.self_attn = self_attn
        self.mlp = mlp
        self.input_layernorm = input_norm
        self.post_attention_layernorm = post_norm

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = add_branch(x, self.self_attn, self.input_layernorm, batch)
        return add_branch(x, self.mlp, self.post_attention_layernorm)


class Decoder(Module):
    """Embedding, blocks, final norm. embedding_scale multiplies the token vectors."""

    def __init__(
        self, embedding: Embedding, layers: Sequence[Mixing], norm: Pointwise, embedding_scale: float = 1.0
    ) -> None:
        self.embed_tokens = embedding
        self._embedding_scale = embedding_scale
        self.layers: list[Callable[..., mx.array]] = list(layers)
        self.norm = norm

    def __call__(self, ids: mx.array, batch: Batch) -> mx.array:
        x = self.embedded(ids)
        for layer in self.layers:
            x = layer(x, batch)
        return self.norm(x)

    def embedded(self, ids: mx.array) -> mx.array:
        """Token vectors: (rows, length, hidden_size)."""
        x = self.embed_tokens(ids)
        return x if self._embedding_scale == 1.0 else x * mx.array(self._embedding_scale, x.dtype)


class Bias(Module):
    """A bias of the output head, where its matrix is the embedding's."""

    def __init__(self, size: int) -> None:
        self.bias = mx.zeros((size,))

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.bias


class CausalLM(Architecture):
    """A causal language model: ids to hidden states, hidden states to logits.

    tied: the head is the embedding's own matrix
    windows: per layer that keeps keys and values the number of tokens it sees, or None for all
    num_states, readers: see CacheSpec
    embedding_scale, logit_scale: multiply token vectors and logits
    logit_softcap: logits become softcap * tanh(logits / softcap)
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        layers: Sequence[Mixing],
        norm: Pointwise,
        *,
        tied: bool,
        windows: Sequence[int | None] | None = None,
        chunked: bool = False,
        num_states: int = 0,
        readers: Sequence[int] = (),
        embedding_scale: float = 1.0,
        logit_scale: float = 1.0,
        logit_softcap: float | None = None,
        head_bias: bool = False,
    ) -> None:
        self.model = Decoder(Embedding(vocab_size, hidden_size), layers, norm, embedding_scale)
        self._logit_scale = logit_scale
        self._logit_softcap = logit_softcap
        self._tied = tied
        windows = [None] * len(layers) if windows is None else list(windows)
        self._cache = CacheSpec(windows, num_states, readers, chunked)
        self._head_bias = head_bias
        if not tied:
            self.lm_head: Linear | Bias = Linear(hidden_size, vocab_size, bias=head_bias)
        elif head_bias:
            self.lm_head = Bias(vocab_size)

    @property
    def windows(self) -> list[int | None]:
        """Per layer the number of tokens it sees, or None for all."""
        return list(self._cache.windows)

    @property
    def cache(self) -> CacheSpec:
        """The kinds of state that the layers keep per sequence."""
        return self._cache

    def __call__(self, ids: mx.array, batch: Batch) -> mx.array:
        """ids: (rows, length) integers; returns (rows, length, hidden_size)."""
        return self.model(ids, batch)

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., hidden_size) to (..., vocab_size)."""
        logits = self._products(hidden)
        if self._logit_scale != 1.0:
            logits = logits * self._logit_scale
        if self._logit_softcap is not None:
            logits = self._logit_softcap * mx.tanh(logits / self._logit_softcap)
        return logits

    def _products(self, hidden: mx.array) -> mx.array:
        """The head's results, neither scaled nor capped."""
        if not self._tied:
            return self.lm_head(hidden)
        logits = self.model.embed_tokens.multiply(hidden)
        return self.lm_head(logits) if self._head_bias else logits
