"""Qwen 3 with a mixture of experts in most layers (arXiv:2505.09388)."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.experts import GatedExperts, choose_experts, stack_experts, stacked_name
from engine.layers.linear import Linear
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class SparseMLP(Module):
    """The chosen experts' outputs, weighted; norm_topk_prob says whether the weights add up to 1."""

    def __init__(self, config: ConfigReader, hidden_size: int, activation: str) -> None:
        num_experts = _num_experts(config)
        self.gate = Linear(hidden_size, num_experts)
        self.switch_mlp = GatedExperts(num_experts, hidden_size, config.count("moe_intermediate_size"), activation)
        self._num_chosen = config.count("num_experts_per_tok", 8)
        self._renormalise = config.flag("norm_topk_prob", default=False)

    def __call__(self, x: mx.array) -> mx.array:
        tokens = x.reshape(-1, x.shape[-1])
        experts, weights = choose_experts(self.gate(tokens), self._num_chosen, renormalise=self._renormalise)
        return mx.sum(self.switch_mlp(tokens, experts) * weights[..., None], axis=1).reshape(x.shape)


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        num_layers = config.count("num_hidden_layers")
        rope = Rope(config.rope(sizes.head_dim))
        windows = config.windows(num_layers)
        self._num_experts = _num_experts(config)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [_block(config, layer, sizes, rope) for layer in range(num_layers)],
            RMSNorm(sizes.hidden_size, config.number("rms_norm_eps", 1e-6)),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=windows if config.flag("use_sliding_window", default=False) else None,
        )

    def rename(self, name: str) -> str | None:
        """Experts make up one stack."""
        return stacked_name(name, {})

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Stack the experts, which the checkpoint lists one by one, unless MLX has."""
        yield from stack_experts(tensors, self._num_experts, {})


def _block(config: ConfigReader, layer: int, sizes: HeadSizes, rope: Rope) -> PreNormBlock:
    bias = config.flag("attention_bias", default=False)
    eps = config.number("rms_norm_eps", 1e-6)
    attention = SelfAttention(
        layer,
        sizes,
        rope,
        bias=bias,
        output_bias=bias,
        q_norm=RMSNorm(sizes.head_dim, eps),
        k_norm=RMSNorm(sizes.head_dim, eps),
    )
    norms = (RMSNorm(sizes.hidden_size, eps), RMSNorm(sizes.hidden_size, eps))
    return PreNormBlock(attention, _mlp(config, layer, sizes.hidden_size), *norms)


def _num_experts(config: ConfigReader) -> int:
    return config.count("num_experts", config.count("num_local_experts", 128))


def _mlp(config: ConfigReader, layer: int, hidden_size: int) -> SparseMLP | GatedMLP:
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    dense_layers = config.integers("mlp_only_layers")
    sparse = layer not in dense_layers and (layer + 1) % config.count("decoder_sparse_step", 1) == 0
    if sparse:
        return SparseMLP(config, hidden_size, activation)
    return GatedMLP(hidden_size, config.count("intermediate_size"), activation)
