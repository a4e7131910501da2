"""Mixture-of-experts layers: a router chooses a few expert MLPs per token."""

import re
from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.errors import CheckpointCorrupt
from engine.layers.activations import activate
from engine.layers.linear import Weight
from engine.layers.module import Module

_EXPERT = re.compile(r"(?P<prefix>.*)\.experts\.(?P<number>\d+)\.(?P<projection>\w+)\.(?P<kind>weight|scales|biases)")


class ExpertLinear(Weight):
    """One projection of every expert: y = x @ weight[expert].T + bias[expert]."""

    bias: mx.array

    def __init__(self, num_experts: int, input_size: int, output_size: int, *, bias: bool = False) -> None:
        super().__init__(num_experts, output_size, input_size)
        self._biased = bias
        if bias:
            self.bias = mx.zeros((num_experts, output_size))

    def __call__(self, x: mx.array, experts: mx.array) -> mx.array:
        """One product per token and chosen expert.

        x: (tokens, 1 or chosen, 1, input_size); experts: (tokens, chosen)
        Returns (tokens, chosen, 1, output_size).
        """
        y = self.multiply_chosen(x, experts)
        return y + self.bias[experts][..., None, :] if self._biased else y


class GatedExperts(Module):
    """down(activation(gate(x)) * up(x)) of the chosen experts."""

    def __init__(
        self, num_experts: int, hidden_size: int, inner_size: int, activation: str, *, bias: bool = False
    ) -> None:
        self.gate_proj = ExpertLinear(num_experts, hidden_size, inner_size, bias=bias)
        self.up_proj = ExpertLinear(num_experts, hidden_size, inner_size, bias=bias)
        self.down_proj = ExpertLinear(num_experts, inner_size, hidden_size, bias=bias)
        self._activation = activation

    def __call__(self, x: mx.array, experts: mx.array) -> mx.array:
        """x: (tokens, hidden_size); experts: (tokens, chosen); returns (tokens, chosen, hidden_size)."""
        return self.weighted_inputs(x[:, None], experts)

    def weighted_inputs(self, x: mx.array, experts: mx.array) -> mx.array:
        """x: (tokens, 1 or chosen, hidden_size), one input for each expert; otherwise as a call."""
        x = x[:, :, None]
        inner = self.gated(self.gate_proj(x, experts), self.up_proj(x, experts))
        return self.down_proj(inner, experts)[:, :, 0]

    def gated(self, gate: mx.array, up: mx.array) -> mx.array:
        """The product inside."""
        return activate(self._native, self._activation, gate, up)


class WeightedExperts(Module):
    """The weighted sum of the chosen experts' outputs."""

    def __init__(self, num_experts: int, hidden_size: int, inner_size: int, activation: str) -> None:
        self.switch_glu = GatedExperts(num_experts, hidden_size, inner_size, activation)

    def __call__(self, tokens: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        """tokens: (tokens, hidden_size); experts, weights: (tokens, num_chosen); returns the shape of tokens."""
        return mx.sum(self.switch_glu(tokens, experts) * weights[..., None], axis=1)


def choose_experts(router_logits: mx.array, num_chosen: int, *, renormalise: bool) -> tuple[mx.array, mx.array]:
    """The most likely experts of each token and their weights, by a softmax over all experts.

    router_logits: (tokens, num_experts)
    renormalise: the chosen weights add up to 1
    Returns expert numbers and weights, both (tokens, num_chosen).
    """
    probabilities = mx.softmax(router_logits.astype(mx.float32), axis=-1, precise=True)
    # The choice has no slope; the weights of what is chosen have.
    experts = mx.stop_gradient(mx.argpartition(-probabilities, num_chosen - 1, axis=-1)[:, :num_chosen])
    weights = mx.take_along_axis(probabilities, experts, axis=-1)
    if renormalise:
        weights = weights / mx.sum(weights, axis=-1, keepdims=True)
    return experts, weights.astype(router_logits.dtype)


def stack_experts(
    tensors: Iterable[tuple[str, mx.array]], num_experts: int, projections: dict[str, str]
) -> Iterator[tuple[str, mx.array]]:
    """Join `x.experts.N.w` into one `x.switch_mlp.w`; other tensors, such as those of MLX folders, pass.

    projections: the checkpoint's names to ours
    Raises CheckpointCorrupt when experts differ in shape, or one of them is not there.
    """
    parts: dict[tuple[str, str, str], dict[int, mx.array]] = {}
    for name, array in tensors:
        match = _EXPERT.fullmatch(name)
        if match is None:
            yield name, array
            continue
        key = match["prefix"], projections.get(match["projection"], match["projection"]), match["kind"]
        found = parts.setdefault(key, {})
        found[int(match["number"])] = array
        if len(found) == num_experts:
            prefix, projection, kind = key
            stacked = f"{prefix}.switch_mlp.{projection}.{kind}"
            if sorted(found) != list(range(num_experts)) or len({each.shape for each in found.values()}) > 1:
                raise CheckpointCorrupt(stacked, f"it needs {num_experts} experts of one shape")
            yield stacked, mx.stack([found[number] for number in range(num_experts)])
            del parts[key]


def stacked_name(name: str, projections: dict[str, str]) -> str | None:
    """The name that `stack_experts` gives a tensor; None for all experts but the first, which speaks for them."""
    match = _EXPERT.fullmatch(name)
    if match is None:
        return name
    if int(match["number"]):
        return None
    projection = projections.get(match["projection"], match["projection"])
    return f"{match['prefix']}.switch_mlp.{projection}.{match['kind']}"
