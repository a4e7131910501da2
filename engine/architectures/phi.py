"""Phi 1 and 2: attention and MLP side by side, layer norms, biases, partly rotated heads (arXiv:2306.11644)."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.mlp import MLP
from engine.layers.module import Module
from engine.layers.norm import LayerNorm
from engine.layers.rope import Rope


class Block(Module):
    """x + attention(norm(x)) + mlp(norm(x)), with one norm."""

    def __init__(self, config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> None:
        activation = config.choice("hidden_act", ACTIVATIONS, "gelu_new")
        self.self_attn = SelfAttention(layer, sizes, rope, bias=True, output_bias=True)
        self.mlp = MLP(sizes.hidden_size, config.count("intermediate_size"), activation, names=("fc1", "fc2"))
        self.input_layernorm = LayerNorm(sizes.hidden_size, config.number("layer_norm_eps", 1e-5))

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        normed = self.input_layernorm(x)
        return x + self.self_attn(normed, batch) + self.mlp(normed)


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        rope = Rope(config.rope(sizes.head_dim, default_part=0.5))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [Block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            LayerNorm(sizes.hidden_size, config.number("layer_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
            head_bias=True,
        )

    def rename(self, name: str) -> str | None:
        """The checkpoint calls the output projection `dense` and the last norm `final_layernorm`."""
        name = name.replace(".self_attn.dense.", ".self_attn.o_proj.")
        return name.replace("model.final_layernorm.", "model.norm.")
