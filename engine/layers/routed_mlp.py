"""Mixtures of experts behind any router, with experts that every token passes beside them. Knows no configuration."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import mlx.core as mx

from engine.attention.batch import Batch
from engine.layers.activations import activate
from engine.layers.causal import CausalLM, Mixing, Pointwise
from engine.layers.experts import ExpertLinear, GatedExperts, stack_experts, stacked_name
from engine.layers.linear import Linear, add_branch
from engine.layers.mlp import MLP, GatedMLP
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


class PlainExperts(Module):
    """down(activation(up(x))) of the chosen experts."""

    def __init__(self, num_experts: int, size: int, inner_size: int, activation: str) -> None:
        self.up_proj = ExpertLinear(num_experts, size, inner_size)
        self.down_proj = ExpertLinear(num_experts, inner_size, size)
        self._activation = activation

    def __call__(self, x: mx.array, experts: mx.array) -> mx.array:
        """x: (tokens, size); experts: (tokens, chosen); returns (tokens, chosen, size)."""
        inner = activate(self._native, self._activation, self.up_proj(x[:, None, None], experts))
        return self.down_proj(inner, experts)[:, :, 0]


class PlainExpertsMLP(Module):
    """The chosen experts' weighted outputs, plus the shared expert's.

    latent_size: width of the vectors that experts see; None is the model's own
    bias: of the projections to that width and back
    """

    def __init__(
        self,
        hidden_size: int,
        routing: Routing,
        inner_size: int,
        activation: str,
        *,
        shared: MLP,
        latent_size: int | None = None,
        bias: bool = False,
    ) -> None:
        self.gate = Router(hidden_size, routing)
        self.switch_mlp = PlainExperts(routing.num_experts, latent_size or hidden_size, inner_size, activation)
        self.shared_experts = shared
        self._is_latent = latent_size is not None
        if latent_size is not None:
            self.fc1_latent_proj = Linear(hidden_size, latent_size, bias=bias)
            self.fc2_latent_proj = Linear(latent_size, hidden_size, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        """x: (..., hidden_size); returns the same shape."""
        tokens = x.reshape(-1, x.shape[-1])
        experts, weights = self.gate.choose(tokens)
        seen = self.fc1_latent_proj(tokens) if self._is_latent else tokens
        mixed = mx.sum(self.switch_mlp(seen, experts) * weights[..., None], axis=1)
        mixed = self.fc2_latent_proj(mixed) if self._is_latent else mixed
        return (mixed + self.shared_experts(tokens)).reshape(x.shape)


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
