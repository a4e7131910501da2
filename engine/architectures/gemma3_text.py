"""Gemma 3, text: normed queries and keys; five windowed layers to one full, each kind with its own rotation."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.configs.windowed import read_sliding_rope
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module
from engine.layers.norm import UnitOffsetRMSNorm
from engine.layers.rope import Rope


class Block(Module):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    def __init__(self, config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> None:
        eps = config.number("rms_norm_eps", 1e-6)
        bias = config.flag("attention_bias", default=False)
        activation = config.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh")
        self.self_attn = SelfAttention(
            layer,
            sizes,
            rope,
            bias=bias,
            output_bias=bias,
            q_norm=UnitOffsetRMSNorm(sizes.head_dim, eps),
            k_norm=UnitOffsetRMSNorm(sizes.head_dim, eps),
        )
        self.mlp = GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation)
        self.input_layernorm = UnitOffsetRMSNorm(sizes.hidden_size, eps)
        self.post_attention_layernorm = UnitOffsetRMSNorm(sizes.hidden_size, eps)
        self.pre_feedforward_layernorm = UnitOffsetRMSNorm(sizes.hidden_size, eps)
        self.post_feedforward_layernorm = UnitOffsetRMSNorm(sizes.hidden_size, eps)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), batch))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.choice("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh")  # some files name it; hidden_activation counts
        sizes = HeadSizes(*config.heads(256), scale=config.inverse_root("query_pre_attn_scalar", 256.0))
        num_layers = config.count("num_hidden_layers")
        windows = config.patterned_windows(num_layers, 6)
        config.require("use_bidirectional_attention", False)
        full = Rope(config.rope(sizes.head_dim, 1_000_000.0, kind="full_attention"))
        sliding = Rope(read_sliding_rope(config, sizes.head_dim))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [Block(config, layer, sizes, sliding if windows[layer] else full) for layer in range(num_layers)],
            UnitOffsetRMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-6)),
            tied=config.flag("tie_word_embeddings", default=True),
            windows=windows,
            embedding_scale=sizes.hidden_size**0.5,
            logit_softcap=config.optional_number("final_logit_softcapping"),
        )
