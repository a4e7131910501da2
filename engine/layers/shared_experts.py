"""A mixture of experts with one more that every token passes. Knows numbers; knows no configuration."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from engine.layers.experts import GatedExperts, choose_experts
from engine.layers.linear import Linear
from engine.layers.mlp import GatedMLP
from engine.layers.module import Module


@dataclass(frozen=True, slots=True)
class ExpertSizes:
    """Sizes of one layer.

    inner_size, shared_size: width of an expert, and of the shared one
    renormalise: the weights of the chosen experts add up to 1
    """

    hidden_size: int
    num_experts: int
    num_chosen: int
    inner_size: int
    shared_size: int
    activation: str
    renormalise: bool


class SharedExpertMLP(Module):
    """The chosen experts' weighted outputs, plus the shared expert's times a gate of its own (arXiv:2407.10671)."""

    def __init__(self, sizes: ExpertSizes) -> None:
        self.gate = Linear(sizes.hidden_size, sizes.num_experts)
        self.switch_mlp = GatedExperts(sizes.num_experts, sizes.hidden_size, sizes.inner_size, sizes.activation)
        self.shared_expert = GatedMLP(sizes.hidden_size, sizes.shared_size, sizes.activation)
        self.shared_expert_gate = Linear(sizes.hidden_size, 1)
        self._sizes = sizes

    def __call__(self, x: mx.array) -> mx.array:
        """x: (..., hidden_size); returns the same shape."""
        tokens = x.reshape(-1, x.shape[-1])
        sizes = self._sizes
        experts, weights = choose_experts(self.gate(tokens), sizes.num_chosen, renormalise=sizes.renormalise)
        chosen = mx.sum(self.switch_mlp(tokens, experts) * weights[..., None], axis=1)
        return (chosen + mx.sigmoid(self.shared_expert_gate(tokens)) * self.shared_expert(tokens)).reshape(x.shape)


def split_experts(tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
    """Experts that lie in one tensor as `experts.gate_up_proj` and `experts.down_proj`; other tensors pass."""
    for name, array in tensors:
        prefix, _, last = name.rpartition(".experts.")
        if last == "gate_up_proj":
            gate, up = mx.split(array, 2, axis=1)
            yield f"{prefix}.switch_mlp.gate_proj.weight", gate
            yield f"{prefix}.switch_mlp.up_proj.weight", up
        elif last == "down_proj":
            yield f"{prefix}.switch_mlp.down_proj.weight", array
        else:
            yield name, array
