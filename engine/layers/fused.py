"""Projections fused with the operations around them: a norm before, a gate between, a sum after.

One call of a native kernel where there is one for the whole, else the same operations one after the other.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from engine.layers.activations import ACTIVATIONS
from engine.layers.linear import Linear, multiplication
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.panels import Multiplication

Norm = Callable[[mx.array], mx.array]


class ResidualBranch(Module):
    """Base of the parts of a block that add their result to the block's input by themselves."""

    def add_to(self, x: mx.array, norm: Norm, *context: Any) -> mx.array:
        """x + self(norm(x), *context)."""
        raise NotImplementedError


def add_branch(x: mx.array, branch: Callable[..., mx.array], norm: Norm, *context: Any) -> mx.array:
    """x + branch(norm(x), *context)."""
    if isinstance(branch, ResidualBranch):
        return branch.add_to(x, norm, *context)
    return x + branch(norm(x), *context)


class FusedProjections:
    """Projections of one input, in one call where their weights lie in one layout.

    They are looked at when they are first used: their weights are then where they stay.
    """

    def __init__(self, *linears: Linear) -> None:
        self._linears = linears
        self._call: Multiplication | None = None
        self._looked = False

    def project(self, x: mx.array, norm: Norm | None = None) -> list[mx.array]:
        """Each projection of norm(x). x: (..., columns); returns (..., rows) for each."""
        call = self._one_call()
        if call is not None and isinstance(norm, RMSNorm):
            return call(x, norm.factors, norm.eps)
        x = x if norm is None else norm(x)
        return [linear(x) for linear in self._linears] if call is None else call(x)

    def gate(self, x: mx.array, activation: str, norm: Norm | None = None) -> mx.array:
        """activation(first(norm(x))) * second(norm(x)); activation is a name in ACTIVATIONS."""
        call = self._one_call()
        if call is not None and isinstance(norm, RMSNorm):
            return call(x, norm.factors, norm.eps, activation=activation)[0]
        x = x if norm is None else norm(x)
        if call is not None:
            return call(x, activation=activation)[0]
        first, second = self._linears
        return ACTIVATIONS[activation](first(x)) * second(x)

    def add_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the one projection of x."""
        call = self._one_call()
        return residual + self._linears[0](x) if call is None else call(x, residual=residual)[0]

    def _one_call(self) -> Multiplication | None:
        if not self._looked:
            self._call, self._looked = multiplication(self._linears), True
        return self._call
