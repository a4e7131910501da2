"""Routers with scores of every kind: which experts a token goes to, and with which weights (arXiv:2412.19437)."""

from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from engine.device import Device
from engine.layers.experts import choose_experts
from engine.layers.linear import Linear
from engine.layers.module import Module
from engine.layers.norm import UnscaledRMSNorm


@dataclass(frozen=True, slots=True)
class Routing:
    """How experts are chosen.

    scores: of all experts, by a softmax or one by one by a sigmoid
    renormalise: the weights of the chosen experts, which are their scores, add up to 1; least_sum is the least divisor
    factor: on the weights
    num_groups, num_chosen_groups: only experts of the best groups are chosen
    best_of_group: a group is as good as the sum of so many of its best experts
    corrected: a stored bias is added to the scores for the choice, not for the weights
    """

    num_experts: int
    num_chosen: int
    scores: Literal["softmax", "sigmoid"]
    renormalise: bool
    factor: float = 1.0
    num_groups: int = 1
    num_chosen_groups: int = 1
    best_of_group: int = 1
    corrected: bool = False
    least_sum: float = 1e-20


class Router(Linear):
    """Scores of every expert, and the choice among them."""

    e_score_correction_bias: mx.array

    def __init__(self, hidden_size: int, routing: Routing, *, bias: bool = False) -> None:
        super().__init__(hidden_size, routing.num_experts, bias=bias)
        if routing.corrected:
            self.e_score_correction_bias = mx.zeros((routing.num_experts,))
        self._routing = routing

    def prepare(self, device: Device) -> None:
        """Bring loaded arrays into the form this device computes with; corrections differ by less than 16 bits tell."""
        super().prepare(device)
        if self._routing.corrected:
            self.e_score_correction_bias = self.e_score_correction_bias.astype(mx.float32)

    def choose(self, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """Expert numbers and weights, both (tokens, num_chosen). tokens: (tokens, hidden_size)."""
        routing, logits = self._routing, self(tokens).astype(mx.float32)
        scores = mx.sigmoid(logits) if routing.scores == "sigmoid" else mx.softmax(logits, axis=-1, precise=True)
        merits = scores + self.e_score_correction_bias if routing.corrected else scores
        merits = self._in_best_groups(merits) if routing.num_chosen_groups < routing.num_groups else merits
        # The choice has no slope; the weights of what is chosen have.
        experts = mx.stop_gradient(mx.argpartition(-merits, routing.num_chosen - 1, axis=-1)[:, : routing.num_chosen])
        weights = mx.take_along_axis(scores, experts, axis=-1)
        if routing.renormalise:
            weights = weights / mx.maximum(mx.sum(weights, axis=-1, keepdims=True), routing.least_sum)
        return experts, (weights * routing.factor).astype(tokens.dtype)

    def _in_best_groups(self, merits: mx.array) -> mx.array:
        """The merits, with experts outside the best groups as bad as can be."""
        routing = self._routing
        by_group = merits.reshape(-1, routing.num_groups, routing.num_experts // routing.num_groups)
        best = mx.sum(mx.topk(by_group, routing.best_of_group, axis=-1), axis=-1)
        worst = mx.argpartition(best, routing.num_groups - routing.num_chosen_groups - 1, axis=-1)
        worst = worst[:, : routing.num_groups - routing.num_chosen_groups, None]
        return mx.put_along_axis(by_group, worst, mx.array(-mx.inf), axis=1).reshape(merits.shape)


class ScaledRouter(Module):
    """Choose experts by normed and scaled tokens; every expert's weight has a factor (Gemma 4)."""

    def __init__(self, hidden_size: int, num_experts: int, num_chosen: int, eps: float) -> None:
        self.norm = UnscaledRMSNorm(hidden_size, eps)
        self.proj = Linear(hidden_size, num_experts)
        self.scale = mx.ones((hidden_size,))
        self.per_expert_scale = mx.ones((num_experts,))
        self._num_chosen = num_chosen

    def __call__(self, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """tokens: (tokens, hidden_size); returns expert numbers and weights, both (tokens, num_chosen)."""
        scaled = self.norm(tokens) * self.scale * tokens.shape[-1] ** -0.5
        experts, weights = choose_experts(self.proj(scaled), self._num_chosen, renormalise=True)
        return experts, weights * self.per_expert_scale[experts]
