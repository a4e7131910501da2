"""StableLM 2 and 3B: layer norms, and a quarter of each head rotated (arXiv:2402.17834)."""

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.device import Device
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module
from engine.layers.norm import HeadwiseLayerNorm, LayerNorm
from engine.layers.rope import Rope


class ListedNorms(HeadwiseLayerNorm):
    """A layer norm per head, which the checkpoint lists one by one."""

    def __init__(self, num_heads: int, head_dim: int, eps: float) -> None:
        super().__init__(num_heads, head_dim, eps)
        del self.weight
        self.norms = [LayerNorm(head_dim, eps, bias=False) for _ in range(num_heads)]

    def prepare(self, device: Device) -> None:
        """Bring the loaded arrays into the form that this device computes with."""
        super().prepare(device)
        self._weight = device.in_precision(mx.stack([norm.weight for norm in self.norms]))

    @property
    def factors(self) -> mx.array:
        """Factors of every head: (num_heads, head_dim)."""
        return self._weight


class Block(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); side by side over one norm where use_parallel_residual is on."""

    def __init__(self, config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> None:
        eps = config.number("layer_norm_eps", 1e-5)
        activation = config.choice("hidden_act", ACTIVATIONS, "silu")
        self._parallel = config.flag("use_parallel_residual", default=False)
        bias, normed = config.flag("use_qkv_bias", default=False), config.flag("qk_layernorm", default=False)
        norms = [ListedNorms(count, sizes.head_dim, eps) for count in (sizes.num_heads, sizes.num_kv_heads)]
        q_norm, k_norm = norms if normed else (None, None)
        self.self_attn = SelfAttention(layer, sizes, rope, bias=bias, q_norm=q_norm, k_norm=k_norm)
        self.mlp = GatedMLP(sizes.hidden_size, config.count("intermediate_size"), activation)
        self.input_layernorm = LayerNorm(sizes.hidden_size, eps)
        if not self._parallel:
            self.post_attention_layernorm = LayerNorm(sizes.hidden_size, eps)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        normed = self.input_layernorm(x)
        attended = x + self.self_attn(normed, batch)
        return attended + self.mlp(normed if self._parallel else self.post_attention_layernorm(attended))


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        rope = Rope(config.rope(sizes.head_dim, default_part=0.25))
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [Block(config, layer, sizes, rope) for layer in range(config.count("num_hidden_layers"))],
            LayerNorm(sizes.hidden_size, config.number("layer_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
        )

    def rename(self, name: str) -> str | None:
        """Our names of the norms of queries and keys."""
        return name.replace(".q_layernorm.", ".q_norm.").replace(".k_layernorm.", ".k_norm.")
