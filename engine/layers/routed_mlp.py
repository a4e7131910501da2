"""Mixtures of experts behind any router, with experts that every token passes beside them. Knows no configuration."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import mlx.core as mx

from engine.attention.batch import Batch
from engine.layers.causal import CausalLM, Mixing, Pointwise
from engine.layers.experts import GatedExperts, stack_experts, stacked_name
from engine.layers.linear import add_branch
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module
from engine.layers.router import Router, Routing
from engine.layers.shared_experts import split_experts

# Mixtral's names of projections, and ours.
MIXTRAL_NAMES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


class RoutedMLP(Module):
    """The chosen experts' weighted outputs, plus that of the shared experts, which lie in one gated MLP.

    inner_size, shared_size: width of an expert, and of the shared ones together; 0 where there are none
    shared_bias: of the shared experts
    """

    def __init__(
        self,
        hidden_size: int,
        routing: Routing,
        inner_size: int,
        activation: str,
        *,
        shared_size: int = 0,
        shared_bias: bool = False,
    ) -> None:
        self.gate = Router(hidden_size, routing)
        self.switch_mlp = GatedExperts(routing.num_experts, hidden_size, inner_size, activation)
        self._is_shared = shared_size > 0
        if self._is_shared:
            self.shared_experts = GatedMLP(hidden_size, shared_size, activation, bias=shared_bias)

    def __call__(self, x: mx.array) -> mx.array:
        """x: (..., hidden_size); returns the same shape."""
        tokens = x.reshape(-1, x.shape[-1])
        experts, weights = self.gate.choose(tokens)
        mixed = mx.sum(self.switch_mlp(tokens, experts) * weights[..., None], axis=1)
        return (mixed + self.shared_experts(tokens) if self._is_shared else mixed).reshape(x.shape)


class SparseBlock(Module):
    """x + attention(norm(x)), then x + experts(norm(x)), with Mixtral's names; multiplier scales what is added."""

    def __init__(
        self,
        self_attn: Mixing,
        experts: RoutedMLP,
        norms: tuple[Callable[[mx.array], mx.array], Pointwise],
        multiplier: float = 1.0,
    ) -> None:
        self.self_attn = self_attn
        self.block_sparse_moe = experts
        self.input_layernorm, self.post_attention_layernorm = norms
        self._multiplier = multiplier

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        if self._multiplier == 1.0:
            x = add_branch(x, self.self_attn, self.input_layernorm, batch)
            return add_branch(x, self.block_sparse_moe, self.post_attention_layernorm)
        x = x + self.self_attn(self.input_layernorm(x), batch) * self._multiplier
        return x + self.block_sparse_moe(self.post_attention_layernorm(x)) * self._multiplier


class ExpertsLM(CausalLM):
    """A causal language model whose checkpoint lists experts one by one, or joined, or stacked as MLX does.

    An architecture sets `_num_experts`, and where the names of projections differ from ours, `_projections`.
    """

    _num_experts: int
    _projections: Mapping[str, str] = {}

    def rename(self, name: str) -> str | None:
        """Experts make up one stack."""
        return stacked_name(name, dict(self._projections))

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Stack the experts, however the checkpoint lists them."""
        stacked = stack_experts(split_experts(tensors), self._num_experts, dict(self._projections))
        yield from super().convert(stacked)
