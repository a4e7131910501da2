"""Feed-forward layers."""

import mlx.core as mx

from engine.layers.activations import activate
from engine.layers.linear import FusedProjections, Linear, Norm, ResidualBranch
from engine.layers.module import Module


class GatedMLP(ResidualBranch):
    """down(activation(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202). x: (..., hidden_size)."""

    def __init__(self, hidden_size: int, inner_size: int, activation: str, *, bias: bool = False) -> None:
        self.gate_proj = Linear(hidden_size, inner_size, bias=bias)
        self.up_proj = Linear(hidden_size, inner_size, bias=bias)
        self.down_proj = Linear(inner_size, hidden_size, bias=bias)
        self._widen = FusedProjections(self.gate_proj, self.up_proj)
        self._narrow = FusedProjections(self.down_proj)
        self._activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self.inner(x))

    def inner(self, x: mx.array, norm: Norm | None = None) -> mx.array:
        """The vectors between the projections, for norm(x): (..., inner_size)."""
        return self._widen.gate(x, self._activation, norm)

    def add_to(self, x: mx.array, norm: Norm) -> mx.array:
        """x + self(norm(x))."""
        return self._narrow.add_to(x, self.inner(x, norm))


class FusedMLP(Module):
    """down(activation(gate(x)) * up(x)), gate and up in one projection. x: (..., hidden_size)."""

    def __init__(self, hidden_size: int, inner_size: int, activation: str) -> None:
        self.gate_up_proj = Linear(hidden_size, 2 * inner_size)
        self.down_proj = Linear(inner_size, hidden_size)
        self._activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = mx.split(self.gate_up_proj(x), 2, axis=-1)
        return self.down_proj(activate(self._native, self._activation, gate, up))


class MLP(Module):
    """Two projections with an activation between. x: (..., hidden_size).

    names: what the checkpoint calls the two projections
    """

    def __init__(
        self, hidden_size: int, inner_size: int, activation: str, *, names: tuple[str, str], bias: bool = True
    ) -> None:
        self._widen = Linear(hidden_size, inner_size, bias=bias)
        self._narrow = Linear(inner_size, hidden_size, bias=bias)
        setattr(self, names[0], self._widen)
        setattr(self, names[1], self._narrow)
        self._activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        return self._narrow(activate(self._native, self._activation, self._widen(x)))
