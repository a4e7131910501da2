"""BitNet b1.58 with expanded weights: norms inside attention and MLP, squared ReLU (arXiv:2504.12285)."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.linear import Linear, Norm
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class Attention(SelfAttention):
    """Self-attention with a norm before the last projection."""

    def __init__(self, layer: int, sizes: HeadSizes, rope: Rope, eps: float, *, bias: bool) -> None:
        super().__init__(layer, sizes, rope, bias=bias, output_bias=bias)
        self.attn_sub_norm = RMSNorm(sizes.num_heads * sizes.head_dim, eps)

    def attended(self, x: mx.array, batch: Batch, norm: Norm | None = None) -> mx.array:
        """The heads' normed results for norm(x), side by side: (rows, length, num_heads * head_dim)."""
        return self.attn_sub_norm(super().attended(x, batch, norm))


class SquaredMLP(Module):
    """down(norm(relu(gate(x))^2 * up(x)))."""

    def __init__(self, hidden_size: int, inner_size: int, eps: float) -> None:
        self.gate_proj = Linear(hidden_size, inner_size)
        self.up_proj = Linear(hidden_size, inner_size)
        self.down_proj = Linear(inner_size, hidden_size)
        self.ffn_sub_norm = RMSNorm(inner_size, eps)

    def __call__(self, x: mx.array) -> mx.array:
        gate = mx.square(mx.maximum(self.gate_proj(x), 0))
        return self.down_proj(self.ffn_sub_norm(gate * self.up_proj(x)))


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.choice("hidden_act", ("relu2",), "relu2")
        sizes = HeadSizes(*config.heads())
        rope = Rope(config.rope(sizes.head_dim, 500_000.0))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    bias = config.flag("attention_bias", default=False)
    eps = config.number("rms_norm_eps", 1e-5)
    return PreNormBlock(
        Attention(layer, sizes, rope, eps, bias=bias),
        SquaredMLP(sizes.hidden_size, config.count("intermediate_size"), eps),
        RMSNorm(sizes.hidden_size, eps),
        RMSNorm(sizes.hidden_size, eps),
    )
