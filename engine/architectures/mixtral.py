"""Mixtral: Mistral with a mixture of experts in place of the MLP (arXiv:2401.04088)."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.attention.batch import Batch
from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM
from engine.layers.experts import GatedExperts, choose_experts, stack_experts, stacked_name
from engine.layers.linear import Linear
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope

_PROJECTIONS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


class SparseMLP(Module):
    """The chosen experts' outputs, weighted; the weights add up to 1."""

    def __init__(self, config: ConfigReader, hidden_size: int) -> None:
        num_experts = config.count("num_local_experts", 8)
        activation = config.choice("hidden_act", ACTIVATIONS, "silu")
        self.gate = Linear(hidden_size, num_experts)
        self.switch_mlp = GatedExperts(num_experts, hidden_size, config.count("intermediate_size"), activation)
        self._num_chosen = config.count("num_experts_per_tok", 2)

    def __call__(self, x: mx.array) -> mx.array:
        tokens = x.reshape(-1, x.shape[-1])
        experts, weights = choose_experts(self.gate(tokens), self._num_chosen, renormalise=True)
        return mx.sum(self.switch_mlp(tokens, experts) * weights[..., None], axis=1).reshape(x.shape)


class Block(Module):
    """x + attention(norm(x)), then x + experts(norm(x))."""

    def __init__(self, config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> None:
        eps = config.number("rms_norm_eps", 1e-5)
        self.self_attn = SelfAttention(layer, sizes, rope)
        self.block_sparse_moe = SparseMLP(config, sizes.hidden_size)
        self.input_layernorm = RMSNorm(sizes.hidden_size, eps)
        self.post_attention_layernorm = RMSNorm(sizes.hidden_size, eps)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), batch)
        return x + self.block_sparse_moe(self.post_attention_layernorm(x))


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        num_layers = config.count("num_hidden_layers")
        rope = Rope(config.rope(sizes.head_dim, 1_000_000.0))
        self._num_experts = config.count("num_local_experts", 8)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [Block(config, layer, sizes, rope) for layer in range(num_layers)],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-5)),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=config.windows(num_layers),
        )

    def rename(self, name: str) -> str | None:
        """Experts make up one stack."""
        return stacked_name(name, _PROJECTIONS)

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Stack the experts, which the checkpoint lists one by one, unless MLX has."""
        yield from stack_experts(tensors, self._num_experts, _PROJECTIONS)
