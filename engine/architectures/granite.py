"""Granite 3: Llama-shaped, with fixed multipliers on embeddings, scores, residuals and logits."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class ScaledBlock(PreNormBlock):
    """A pre-norm block whose additions to the residual stream are multiplied."""

    def __init__(
        self, attention: SelfAttention, mlp: GatedMLP, norms: tuple[RMSNorm, RMSNorm], multiplier: float
    ) -> None:
        super().__init__(attention, mlp, *norms)
        self._multiplier = multiplier

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), batch) * self._multiplier
        return x + self.mlp(self.post_attention_layernorm(x)) * self._multiplier


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads(), scale=config.number("attention_multiplier", 1.0))
        rope = Rope(config.rope(sizes.head_dim))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-6)),
            tied=config.flag("tie_word_embeddings", default=False),
            embedding_scale=config.number("embedding_multiplier", 1.0),
            logit_scale=1 / config.number("logits_scaling", 1.0),
        )


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> ScaledBlock:
    bias = config.flag("attention_bias", default=False)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    mlp_bias = config.flag("mlp_bias", default=False)
    eps = config.number("rms_norm_eps", 1e-6)
    return ScaledBlock(
        SelfAttention(layer, sizes, rope, bias=bias, output_bias=bias),
        GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation, bias=mlp_bias),
        (RMSNorm(sizes.hidden_size, eps), RMSNorm(sizes.hidden_size, eps)),
        config.number("residual_multiplier", 1.0),
    )
