"""GPT-J: attention and MLP side by side over one norm, interleaved rotary pairs, a head with a bias."""

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
from engine.rope_spec import RopeSpec

_OURS = {
    "model.wte.": "model.embed_tokens.",
    "model.ln_f.": "model.norm.",
    "model.h.": "model.layers.",
    ".attn.": ".self_attn.",
    ".out_proj.": ".o_proj.",
}
_STORED_MASKS = (".attn.bias", ".attn.masked_bias")


class Block(Module):
    """x + attention(norm(x)) + mlp(norm(x)), with one norm."""

    def __init__(self, config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> None:
        inner_size = config.count("n_inner", 4 * sizes.hidden_size)
        activation = config.choice("activation_function", ACTIVATIONS, "gelu_new")
        self.self_attn = SelfAttention(layer, sizes, rope)
        self.mlp = MLP(sizes.hidden_size, inner_size, activation, names=("fc_in", "fc_out"))
        self.ln_1 = LayerNorm(sizes.hidden_size, config.number("layer_norm_epsilon", 1e-5))

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        normed = self.ln_1(x)
        return x + self.self_attn(normed, batch) + self.mlp(normed)


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.require("tie_word_embeddings", False)
        hidden_size, num_heads = config.count("n_embd", 4096), config.count("n_head", 16)
        sizes = HeadSizes(hidden_size, num_heads, num_heads, hidden_size // num_heads)
        rope = Rope(RopeSpec(dims=config.count("rotary_dim", 64), base=10_000.0), interleaved=True)
        super().__init__(
            config.count("vocab_size"),
            hidden_size,
            [Block(config, layer, sizes, rope) for layer in range(config.count("n_layer", 28))],
            LayerNorm(hidden_size, config.number("layer_norm_epsilon", 1e-5)),
            tied=False,
            head_bias=True,
        )

    def rename(self, name: str) -> str | None:
        """Our names of the frame, from Hugging Face's or MLX's; stored masks are dropped."""
        if name.endswith(_STORED_MASKS):
            return None
        name = name.replace("transformer.", "model.", 1)
        for theirs, ours in _OURS.items():
            name = name.replace(theirs, ours)
        return name
