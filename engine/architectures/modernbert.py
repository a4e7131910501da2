"""ModernBERT (arXiv:2412.13663): pre-norm, rotary positions, gated MLPs, and local attention in most layers."""

import mlx.core as mx

from engine.attention.attend import AttentionOptions, attend
from engine.attention.qkv import join_heads, split_heads
from engine.config import ConfigReader, head_size
from engine.layers.activations import ACTIVATIONS, activate
from engine.layers.encoder import Encoder
from engine.layers.linear import Embedding, Linear
from engine.layers.module import Module
from engine.layers.norm import LayerNorm
from engine.layers.rope import Rope
from engine.rope_spec import RopeSpec


class Block(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the first block's attention has no norm."""

    def __init__(self, config: ConfigReader, layer: int, rope: Rope) -> None:
        hidden_size, self._num_heads = config.count("hidden_size"), config.count("num_attention_heads")
        inner_size = config.count("intermediate_size")
        attention_bias = config.flag("attention_bias", default=False)
        mlp_bias = config.flag("mlp_bias", default=False)
        if layer:
            self.attn_norm = _norm(config)
        self.wqkv = Linear(hidden_size, 3 * hidden_size, bias=attention_bias)
        self.wo = Linear(hidden_size, hidden_size, bias=attention_bias)
        self.mlp_norm = _norm(config)
        self.wi = Linear(hidden_size, 2 * inner_size, bias=mlp_bias)
        self.mlp_wo = Linear(inner_size, hidden_size, bias=mlp_bias)
        self._activation = config.choice("hidden_activation", ACTIVATIONS, "gelu")
        self._is_first = layer == 0
        self._rope = rope
        self._scale = head_size(hidden_size, self._num_heads) ** -0.5

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        x = x + self._attend(x if self._is_first else self.attn_norm(x), mask)
        inner, gate = mx.split(self.wi(self.mlp_norm(x)), 2, axis=-1)
        return x + self.mlp_wo(activate(self._native, self._activation, inner, gate))

    def _attend(self, x: mx.array, mask: mx.array) -> mx.array:
        queries, keys, values = (split_heads(each, self._num_heads) for each in mx.split(self.wqkv(x), 3, axis=-1))
        length = [x.shape[1]] * x.shape[0]
        queries, keys = self._rope(queries, 0, length), self._rope(keys, 0, length)
        options = AttentionOptions(self._scale, causal=False, mask=mask)
        return self.wo(join_heads(attend(queries, keys, values, options, self._native)))


class Head(Module):
    """norm(activation(dense(x))), before the classifier."""

    def __init__(self, config: ConfigReader) -> None:
        hidden_size = config.count("hidden_size")
        self.dense = Linear(hidden_size, hidden_size, bias=config.flag("classifier_bias", default=False))
        self.norm = _norm(config)
        self._activation = config.choice("classifier_activation", ACTIVATIONS, "gelu")

    def __call__(self, x: mx.array) -> mx.array:
        return self.norm(activate(self._native, self._activation, self.dense(x)))


class Model(Encoder):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        self.hidden_size = config.count("hidden_size")
        self.max_length = config.count("max_position_embeddings", 8192)
        self.words = Embedding(config.count("vocab_size"), self.hidden_size)
        self.embedding_norm = _norm(config)
        self._local = _local_layers(config)
        self._reach = config.count("local_attention", 128) // 2
        ropes = {local: Rope(_rope(config, local=local)) for local in (True, False)}
        self.layers = [Block(config, layer, ropes[local]) for layer, local in enumerate(self._local)]
        self.final_norm = _norm(config)
        self._pooling = config.choice("classifier_pooling", ("cls", "mean"), "cls")
        self.num_labels = config.labels() if config.stores("classifier.weight") else 0
        if self.num_labels:
            self.head = Head(config)
            self.classifier = Linear(self.hidden_size, self.num_labels, bias=True)

    def __call__(self, ids: mx.array, mask: mx.array, types: mx.array) -> mx.array:
        """See Encoder; there are no kinds of text."""
        x = self.embedding_norm(self.words(ids))
        places = mx.arange(ids.shape[1])
        near = mx.abs(places[None] - places[:, None]) <= self._reach
        seen = {False: mask[:, None, None], True: mask[:, None, None] & near}
        for layer, local in zip(self.layers, self._local, strict=True):
            x = layer(x, seen[local])
        return self.final_norm(x)

    def scores(self, hidden: mx.array, mask: mx.array) -> mx.array:
        """From the first token's vector or the mean of all, as the checkpoint says."""
        weights = mask[..., None].astype(hidden.dtype)
        mean = mx.sum(hidden * weights, axis=1) / mx.sum(weights, axis=1)
        return self.classifier(self.head(hidden[:, 0] if self._pooling == "cls" else mean))

    def rename(self, name: str) -> str | None:
        """Drop the prefix and the head for masked words."""
        name = name.removeprefix("model.")
        if name.startswith("decoder.") or (name.startswith("head.") and not self.num_labels):
            return None
        name = name.replace("embeddings.tok_embeddings.", "words.").replace("embeddings.norm.", "embedding_norm.")
        name = name.replace(".attn.Wqkv.", ".wqkv.").replace(".attn.Wo.", ".wo.")
        return name.replace(".mlp.Wi.", ".wi.").replace(".mlp.Wo.", ".mlp_wo.")


def _norm(config: ConfigReader) -> LayerNorm:
    bias = config.flag("norm_bias", default=False)
    return LayerNorm(config.count("hidden_size"), config.number("norm_eps", 1e-5), bias=bias)


def _local_layers(config: ConfigReader) -> list[bool]:
    """As layer_types says, else all but every `global_attn_every_n_layers`-th, beginning with a full one."""
    num_layers = config.count("num_hidden_layers")
    every = config.count("global_attn_every_n_layers", 3)
    default = "full_attention"
    kinds = config.words("layer_types", ("full_attention", "sliding_attention"), num_layers, default)
    if config.has("layer_types"):
        return [kind == "sliding_attention" for kind in kinds]
    return [layer % every != 0 for layer in range(num_layers)]


def _rope(config: ConfigReader, *, local: bool) -> RopeSpec:
    """Each kind of layer turns at its own base, in older files under keys of their own."""
    full_base = config.number("global_rope_theta", 160_000.0)
    local_base = config.number("local_rope_theta", 10_000.0)
    head_dim = config.count("hidden_size") // config.count("num_attention_heads")
    if config.has("rope_parameters"):
        kind = "sliding_attention" if local else "full_attention"
        return config.rope(head_dim, local_base if local else full_base, kind=kind)
    return RopeSpec(dims=head_dim, base=local_base if local else full_base)
