"""Apertus: normed queries and keys, and an MLP with a learned activation in place of a gate (arXiv:2509.14233)."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.config import ConfigReader
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.linear import Linear
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope

_OURS = {"attention_layernorm": "input_layernorm", "feedforward_layernorm": "post_attention_layernorm"}


class XIELU(Module):
    """The integral of ELU with two learned slopes (Huang and Schlag 2024, arXiv:2411.13010)."""

    def __init__(self) -> None:
        self.alpha_p = mx.array(0.8)
        self.alpha_n = mx.array(0.8)
        self.beta = mx.array(0.5)
        self.eps = mx.array(-1e-6)

    def __call__(self, x: mx.array) -> mx.array:
        above, below = mx.logaddexp(self.alpha_p, 0), self.beta + mx.logaddexp(self.alpha_n, 0)
        curve = mx.where(x > 0, above * x * x, (mx.expm1(mx.minimum(x, self.eps)) - x) * below)
        return (curve + self.beta * x).astype(x.dtype)


class XIELUMLP(Module):
    """down(xielu(up(x)))."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        self.up_proj = Linear(hidden_size, inner_size)
        self.down_proj = Linear(inner_size, hidden_size)
        self.act_fn = XIELU()

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self.act_fn(self.up_proj(x)))


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.choice("hidden_act", ("xielu",), "xielu")
        sizes = HeadSizes(*config.heads())
        rope = Rope(config.rope(sizes.head_dim, 12_000_000.0))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
        )

    def rename(self, name: str) -> str | None:
        """Our names of the norms."""
        for theirs, ours in _OURS.items():
            name = name.replace(theirs, ours)
        return name

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Numbers of the activation are single ones, which Hugging Face's files hold in lists."""
        for name, array in super().convert(tensors):
            yield name, array.reshape(()) if ".act_fn." in name else array


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    bias = config.flag("attention_bias", default=False)
    eps = config.number("rms_norm_eps", 1e-5)
    norms = RMSNorm(sizes.head_dim, eps), RMSNorm(sizes.head_dim, eps)
    return PreNormBlock(
        SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias, q_norm=norms[0], k_norm=norms[1]),
        XIELUMLP(sizes.hidden_size, config.count("intermediate_size")),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
