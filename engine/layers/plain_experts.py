"""Experts without gates behind a router, also in a space narrower than the model's. Know no configuration."""

import mlx.core as mx

from engine.layers.activations import activate
from engine.layers.experts import ExpertLinear
from engine.layers.linear import Linear
from engine.layers.mlp import MLP
from engine.layers.module import Module
from engine.layers.router import Router, Routing


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
