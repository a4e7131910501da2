"""Gemma 3n, text: several streams, vectors per layer and token, sparse gates, last layers that read earlier keys."""

from collections.abc import Sequence

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.configs.windowed import SLIDING, is_of_reader, read_kinds, read_sliding_rope, read_sources
from engine.errors import CheckpointUnsupported
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, NormedAttention, ReadingAttention, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.per_layer_inputs import (
    AltUp,
    AltUpDecoder,
    Laurel,
    LayerInputBlock,
    LayerInputSizes,
    SparseGatedMLP,
    mean_of_two,
)
from engine.layers.rope import Rope


class Block(LayerInputBlock):
    """Predict all streams, compute the active one, correct all, and add the layer's own vector to the others."""

    def __init__(self, config: ConfigReader, sizes: LayerInputSizes, self_attn: SelfAttention, mlp: GatedMLP) -> None:
        super().__init__(sizes)
        hidden_size, eps = sizes.hidden_size, sizes.eps
        self._active = _active_stream(config)
        self._scales = config.flag("altup_correct_scale", default=True)
        self.altup = AltUp(hidden_size, config.count("altup_num_inputs", 4), self._active, eps)
        self.laurel = Laurel(hidden_size, config.count("laurel_rank", 64), eps)
        self.self_attn = self_attn
        self.mlp = mlp
        self.input_layernorm = RMSNorm(hidden_size, eps)
        self.post_attention_layernorm = RMSNorm(hidden_size, eps)
        self.pre_feedforward_layernorm = RMSNorm(hidden_size, eps)
        self.post_feedforward_layernorm = RMSNorm(hidden_size, eps)

    def __call__(self, streams: mx.array, batch: Batch, own: mx.array) -> mx.array:
        predictions = self.altup.predict(streams)
        active = predictions[self._active]
        normed = self.input_layernorm(active)
        attended = active + self.post_attention_layernorm(self.self_attn(normed, batch))
        x = mean_of_two(attended, self.laurel(normed))
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        corrected = self.altup.correct(predictions, x)
        x = corrected[self._active]
        added = self.gated(x * self.altup.correct_output_scale if self._scales else x, own)
        return mx.concatenate([corrected[:1], corrected[1:] + added])


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        heads = HeadSizes(*config.heads(256), scale=1.0)
        hidden_size = heads.hidden_size
        num_layers = config.count("num_hidden_layers")
        kinds = read_kinds(config, num_layers, 5)
        sources = read_sources(config, kinds, 15)
        self._num_own = sum(source == layer for layer, source in enumerate(sources))
        eps = config.number("rms_norm_eps", 1e-6)
        activation = config.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh")
        sizes = LayerInputSizes(
            hidden_size,
            config.count("hidden_size_per_layer_input", 256),
            config.count("vocab_size_per_layer_input", 262_144),
            eps,
            activation,
        )
        attention = _attention(config, heads, kinds, sources, eps)
        mlps = _mlps(config, num_layers, hidden_size, activation)
        layers = [Block(config, sizes, *parts) for parts in zip(attention, mlps, strict=True)]
        window = config.count("sliding_window", 512)
        super().__init__(
            config.count("vocab_size"),
            hidden_size,
            [],
            norm := RMSNorm(hidden_size, eps),
            tied=config.flag("tie_word_embeddings", default=True),
            windows=[window if kind == SLIDING else None for kind in kinds[: self._num_own]],
            readers=sources[self._num_own :],
            logit_softcap=config.number("final_logit_softcapping", 30.0),
        )
        scale, num_streams = hidden_size**0.5, config.count("altup_num_inputs", 4)
        self.model = AltUpDecoder(self.model.embed_tokens, layers, norm, scale, sizes, num_streams)

    def rename(self, name: str) -> str | None:
        """Layers that read the keys of others have none of their own, whatever the file has."""
        return None if is_of_reader(name, self._num_own) else name


def _active_stream(config: ConfigReader) -> int:
    number, num_streams = config.number("altup_active_idx", 0), config.count("altup_num_inputs", 4)
    if number not in range(num_streams):
        raise CheckpointUnsupported("altup_active_idx", number, f"the number of one of {num_streams} streams")
    return int(number)


def _attention(
    config: ConfigReader, sizes: HeadSizes, kinds: Sequence[str], sources: Sequence[int], eps: float
) -> list[SelfAttention]:
    full = Rope(config.rope(sizes.head_dim, 1_000_000.0, kind="full_attention"))
    sliding = Rope(read_sliding_rope(config, sizes.head_dim))
    bias = config.flag("attention_bias", default=False)
    return [
        (NormedAttention if source == layer else ReadingAttention)(
            source, sizes, sliding if kind == SLIDING else full, eps, bias=bias
        )
        for layer, (kind, source) in enumerate(zip(kinds, sources, strict=True))
    ]


def _mlps(config: ConfigReader, num_layers: int, hidden_size: int, activation: str) -> list[GatedMLP]:
    inner_sizes = config.counts("intermediate_size", num_layers)
    default = [0.95 if num_layers > 10 and layer < 10 else 0.0 for layer in range(num_layers)]
    shares = config.numbers("activation_sparsity_pattern", num_layers) or default
    if not all(0.0 <= share < 1.0 for share in shares):
        raise CheckpointUnsupported("activation_sparsity_pattern", shares, "shares from 0 to less than 1")
    return [
        SparseGatedMLP(hidden_size, size, activation, share) if share else GatedMLP(hidden_size, size, activation)
        for size, share in zip(inner_sizes, shares, strict=True)
    ]
