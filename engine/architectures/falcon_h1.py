"""Falcon-H1: attention and Mamba-2 side by side in every layer, with a multiplier on everything (arXiv:2507.22448)."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.configs.mamba2 import read_mamba2
from engine.errors import CheckpointUnsupported
from engine.layers.activations import ACTIVATIONS, activate
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.linear import Linear
from engine.layers.mamba import Mamba2, Mamba2Spec
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class Multipliers:
    """The factors of the configuration. MLX's converter multiplies weights with most of them, and leaves them there."""

    def __init__(self, config: ConfigReader, *, folded: bool) -> None:
        def one(key: str) -> float:
            value = config.number(key, 1.0)
            return 1.0 if folded else value

        def several(key: str, length: int) -> list[float]:
            values = config.numbers(key, length) or [1.0] * length
            return [1.0] * length if folded else values

        embedding = config.number("embedding_multiplier", 1.0)
        self.embedding = embedding
        self.logits = config.number("lm_head_multiplier", 1.0)
        if folded:
            self.embedding, self.logits = 1.0, self.logits / embedding
        self.attention_in, self.attention_out = one("attention_in_multiplier"), one("attention_out_multiplier")
        self.keys = config.number("key_multiplier", 1.0)  # the one that MLX's converter leaves out
        self.space_in, self.space_out = one("ssm_in_multiplier"), one("ssm_out_multiplier")
        self.space = several("ssm_multipliers", 5)
        self.gate, self.down = several("mlp_multipliers", 2)


class ScaledMamba2(Mamba2):
    """Mamba-2 whose input, and each part of what it is projected to, has a factor."""

    def __init__(self, layer: int, spec: Mamba2Spec, multipliers: Multipliers) -> None:
        super().__init__(layer, spec)
        width = spec.space.num_groups * spec.space.state_size
        sizes = spec.space.inner_size, spec.space.inner_size, width, width, spec.space.num_heads
        parts = zip(sizes, multipliers.space, strict=True)
        self._factors = mx.concatenate([mx.full((size,), factor) for size, factor in parts])
        self._scaled = any(factor != 1.0 for factor in multipliers.space)
        self._input_factor = multipliers.space_in

    def projected(self, x: mx.array) -> mx.array:
        """Gate, heads, input and output vectors and steps of each token, side by side."""
        y = self.in_proj(times(x, self._input_factor))
        return y * self._factors.astype(y.dtype) if self._scaled else y


class ScaledMLP(Module):
    """A gated MLP with factors on its gate and on its result. x: (..., hidden_size)."""

    def __init__(self, config: ConfigReader, hidden_size: int, multipliers: Multipliers) -> None:
        inner_size, bias = config.count("intermediate_size", 14336), config.flag("mlp_bias", default=False)
        self.gate_proj = Linear(hidden_size, inner_size, bias=bias)
        self.up_proj = Linear(hidden_size, inner_size, bias=bias)
        self.down_proj = Linear(inner_size, hidden_size, bias=bias)
        self._activation = config.choice("hidden_act", ACTIVATIONS, "silu")
        self._factors = multipliers.gate, multipliers.down

    def __call__(self, x: mx.array) -> mx.array:
        gate = times(self.gate_proj(x), self._factors[0])
        return times(self.down_proj(activate(self._native, self._activation, gate, self.up_proj(x))), self._factors[1])


class Block(Module):
    """x + mamba(norm(x)) + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self, mamba: Mamba2, attention: SelfAttention, mlp: ScaledMLP, norms: list[RMSNorm], multipliers: Multipliers
    ) -> None:
        self.mamba = mamba
        self.self_attn = attention
        self.feed_forward = mlp
        self.input_layernorm, self.pre_ff_layernorm = norms
        self._multipliers = multipliers

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        multipliers, normed = self._multipliers, self.input_layernorm(x)
        mixed = times(self.mamba(normed, batch), multipliers.space_out)
        attended = self.self_attn(times(normed, multipliers.attention_in), batch)
        x = x + (mixed + times(attended, multipliers.attention_out))
        return x + self.feed_forward(self.pre_ff_layernorm(x))


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        spec = _spec(config)
        multipliers = Multipliers(config, folded=spec.channels_last)
        if spec.channels_last and config.number("attention_in_multiplier", 1.0) != 1.0:
            value = config.number("attention_in_multiplier")
            raise CheckpointUnsupported("attention_in_multiplier", value, "1.0 in a folder of MLX, which loses it")
        hidden_size, eps = spec.hidden_size, config.number("rms_norm_eps", 1e-5)
        sizes = HeadSizes(*config.heads())
        sizes = HeadSizes(*config.heads(), scale=sizes.head_dim**-0.5 * multipliers.keys)
        rope = Rope(config.rope(sizes.head_dim))
        bias, num_layers = config.flag("attention_bias", default=False), config.count("num_hidden_layers", 32)
        super().__init__(
            config.count("vocab_size", 128000),
            hidden_size,
            [
                Block(
                    ScaledMamba2(layer, spec, multipliers),
                    SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias),
                    ScaledMLP(config, hidden_size, multipliers),
                    [RMSNorm(hidden_size, eps), RMSNorm(hidden_size, eps)],
                    multipliers,
                )
                for layer in range(num_layers)
            ],
            RMSNorm(hidden_size, eps),
            tied=config.flag("tie_word_embeddings", default=False),
            num_states=num_layers,
            embedding_scale=multipliers.embedding,
            logit_scale=multipliers.logits,
        )

    def rename(self, name: str) -> str | None:
        """Our name for the last norm."""
        return name.replace("model.final_layernorm.", "model.norm.")


def times(x: mx.array, factor: float) -> mx.array:
    """x * factor."""
    return x if factor == 1.0 else x * factor


def _spec(config: ConfigReader) -> Mamba2Spec:
    hidden_size = config.count("hidden_size", 4096)
    inner_size = config.count("mamba_d_ssm", config.count("mamba_expand", 2) * hidden_size)
    normed = config.flag("mamba_rms_norm", default=False)
    return read_mamba2(
        config,
        hidden_size,
        inner_size,
        eps=config.number("rms_norm_eps", 1e-5) if normed else None,
        norm_first=config.flag("mamba_norm_before_gate", default=True),
    )
